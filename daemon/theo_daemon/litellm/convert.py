"""A whole file of LiteLLM becomes a whole file of ours."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from theo_daemon.config_parse import parse_config
from theo_daemon.litellm.budgets import list_budgets
from theo_daemon.litellm.deployment import read_deployment
from theo_daemon.litellm.draft import KEYS, Draft
from theo_daemon.litellm.endpoint import LeftOut
from theo_daemon.litellm.families import Families, build_families
from theo_daemon.litellm.notes import Note, Notes
from theo_daemon.litellm.settings import (
    DEFAULT_DRAIN_S,
    DEFAULT_TIMEOUT_S,
    FALLBACKS,
    Settings,
    read_settings,
)
from theo_daemon.litellm.toml_text import comment, toml_table
from theo_daemon.litellm.values import Place, Values
from theo_workers.errors import ConfigError

READ = {
    *("model_list", "router_settings", "litellm_settings", "general_settings"),
    *("environment_variables", "credential_list", *FALLBACKS),
}
SECTIONS: dict[str, str] = {
    "include": "the files that it names were not read: put their models into one file, and import again",
    "guardrails": "there are no guardrails",
    "mcp_servers": "tools are the client's own affair",
    "mcp_tools": "tools are the client's own affair",
    "vector_store_registry": "there are no vector stores",
    "search_tools": "tools are the client's own affair",
    "callback_settings": "there are no callbacks: logs, metrics, traces and P:events",
    "prompts": "prompts are the jobs' own",
    "files_settings": "files are not offered",
    "finetune_settings": "fine-tuning is not offered",
    "assistant_settings": "assistants are not offered",
    "default_vertex_config": "there is no pass-through",
}


class Imported(Struct, frozen=True, kw_only=True):
    """The text of our file, and everything that an operator must know of it."""

    toml: str
    models: int
    notes: tuple[Note, ...]
    left_out: tuple[Note, ...]  # deployments that cannot be reached from here
    wanted: Mapping[str, str]  # environment variables to set -> what for


def convert(document: Any, *, source: str, env: Mapping[str, str]) -> Imported:
    """`document` is LiteLLM's file as plain data, `source` its name for people.

    Raises ConfigError for what is no such file, or has no model that can be taken over.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("model_list"), list):
        raise ConfigError(f"{source} has no model_list: is it the configuration of a LiteLLM proxy?")
    notes, left_out = Notes(), Notes()
    values = Values(env, notes)
    settings = read_settings(_with_top_level_fallbacks(document), values)
    drafts = _drafts(document, values, left_out)
    for draft in drafts:
        if draft.concurrency is None:
            draft.concurrency = settings.concurrency
    if not drafts:
        why = "; ".join(map(str, left_out.all[:3]))
        raise ConfigError(f"{source}: none of its models can be taken over. {why}")
    families = build_families(drafts, _all_fallbacks(settings, drafts), settings.aliases, notes)
    _choose_strategy(settings, families, notes)
    settings.budgets = list_budgets(settings, families, notes)
    _note_sections(document, notes)
    text = _write(source, settings, families, values, left_out)
    try:
        _accept(tomllib.loads(text))
    except ConfigError as mistake:  # of ours: every part of it had been looked at
        raise ConfigError(f"{source}: what was made of it is not accepted. {mistake}") from mistake
    return Imported(
        toml=text,
        models=len(families.models),
        notes=tuple(notes.all),
        left_out=tuple(left_out.all),
        wanted=dict(values.wanted),
    )


def _with_top_level_fallbacks(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Some files have the fallbacks beside the sections."""
    beside = {key: document[key] for key in FALLBACKS if document.get(key) is not None}
    router = document.get("router_settings")
    return {**document, "router_settings": {**beside, **(router if isinstance(router, Mapping) else {})}}


def _drafts(document: Mapping[str, Any], values: Values, left_out: Notes) -> list[Draft]:
    credentials = _credentials(document, values.notes)
    drafts: list[Draft] = []
    for number, entry in enumerate(document["model_list"], 1):
        asked = entry.get("model_name") if isinstance(entry, Mapping) else None
        where = f"model_list #{number}" + (f" {asked[:64]!r}" if isinstance(asked, str) else "")
        if not isinstance(asked, str) or not asked:
            left_out.lost(where, "has no model_name")
            continue
        try:
            draft = read_deployment(entry, asked, credentials, Place(values, where))
            _accept({"models": [{**_table(draft), "name": "m"}]})
        except LeftOut as why:
            left_out.lost(where, str(why))
        except ConfigError as refused:
            left_out.lost(where, " ".join(str(refused).split("\n")[1:]).strip())
        else:
            drafts.append(draft)
    return drafts


def _credentials(document: Mapping[str, Any], notes: Notes) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    given = document.get("credential_list")
    for entry in given if isinstance(given, list) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("credential_values"), Mapping):
            found[str(entry.get("credential_name"))] = entry["credential_values"]
        else:
            notes.lost("credential_list", "has an entry without credential_values")
    return found


def _all_fallbacks(settings: Settings, drafts: Sequence[Draft]) -> dict[str, list[str]]:
    """The default ones are everybody's who has none of its own, but those that they consist of."""
    own = dict(settings.fallbacks["fallbacks"])
    everybody = own.pop("*", [])
    asked = list(dict.fromkeys(draft.asked for draft in drafts))
    return {name: everybody for name in asked if name not in everybody} | own


def _choose_strategy(settings: Settings, families: Families, notes: Notes) -> None:
    told = settings.strategy_told
    if settings.strategy and families.ranked:
        told = "was left out: fallbacks of several steps are weights here, which it would not look at"
    else:
        settings.routing.update(settings.strategy)
    if told:
        notes.lost("router_settings routing_strategy", told)


def _note_sections(document: Mapping[str, Any], notes: Notes) -> None:
    for section in document:
        if section not in READ:
            notes.lost(str(section)[:64], SECTIONS.get(section, "this section has no equivalent here"))
    variables = document.get("environment_variables")
    if isinstance(variables, Mapping) and variables:
        shown = ", ".join(str(name)[:64] for name in variables)
        notes.lost(
            "environment_variables",
            f"set these in the environment of the daemon, as far as it needs them: {shown}",
        )


# -- writing -------------------------------------------------------------------------------------------------------


def _write(source: str, settings: Settings, families: Families, values: Values, left_out: Notes) -> str:
    lines = [
        *comment(
            f"Made from {source} by `theo-router import litellm`. Check it: theo-router check-config FILE"
        ),
        "#",
        *_list(
            "In the environment of the daemon must be:",
            [f"{name} ({what})" for name, what in values.wanted.items()],
        ),
        *_list("Not taken over:", [str(note) for note in left_out.all]),
        *_list("Not as it was:", [str(note) for note in values.notes.all if note.lost]),
        *_list("Good to know:", [str(note) for note in values.notes.all if not note.lost]),
        "",
        "[redis]",
        *comment("A Redis or Valkey that evicts nothing; or set THEO_REDIS_URL."),
        '# url = "redis://127.0.0.1:6379/0"',
        "",
        *_ingress(settings, families),
        *toml_table("[routing]", _routing(settings, families)),
    ]
    for draft in families.models:
        remarks = [line for remark in draft.remarks for line in comment(remark)]
        lines += ["", *remarks, *toml_table("[[models]]", _table(draft))]
    if families.groups:
        lines += ["", *toml_table("[groups]", families.groups)]
    for budget in settings.budgets:
        lines += ["", *toml_table("[[budgets]]", budget)]
    return "\n".join(lines) + "\n"


def _list(head: str, items: Sequence[str]) -> list[str]:
    return [f"# {head}", *(line for item in items for line in comment(item, mark="- "))] if items else []


def _ingress(settings: Settings, families: Families) -> list[str]:
    """Sent calls must be able to end while a process drains."""
    size = {} if settings.max_job_bytes is None else {"max_job_bytes": settings.max_job_bytes}
    longest = max(
        settings.routing.get("timeout_s", DEFAULT_TIMEOUT_S),
        *(draft.routing.get("timeout_s", 0.0) for draft in families.models),
    )
    if longest <= DEFAULT_DRAIN_S:
        return [*toml_table("[ingress]", size), ""] if size else []
    told = comment(
        "Above every timeout_s, or a restart may pay twice; keep your supervisor's patience above it."
    )
    return [*told, *toml_table("[ingress]", {**size, "drain_s": longest + 10.0}), ""]


def _routing(settings: Settings, families: Families) -> dict[str, Any]:
    routing = dict(settings.routing)
    default = families.names.get(settings.default or "")
    if default is not None:
        routing = {"default": default, **routing}
    for key in FALLBACKS[1:]:
        named = {
            families.names[asked]: [families.names[one] for one in targets if one in families.names]
            for asked, targets in settings.fallbacks[key].items()
            if asked in families.names
        }
        if any(named.values()):
            routing[key] = {asked: targets for asked, targets in named.items() if targets}
    return routing


def _table(draft: Draft) -> dict[str, Any]:
    return {key: value for key in KEYS if (value := getattr(draft, key)) not in (None, {})}


def _accept(tables: Mapping[str, Any]) -> None:
    """As `serve` would read them, with everything set that they name. Raises ConfigError."""
    parse_config(tables, folder=Path("/"), env=_Everything())


class _Everything(dict[str, str]):
    """An environment in which every variable is set that is looked up by a name of the file's."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return "set"
