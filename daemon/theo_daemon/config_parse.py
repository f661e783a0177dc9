"""Turns the tables of a configuration into a `Config`, or one ConfigError that lists everything wrong with them."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from msgspec import Struct, structs

from theo_daemon.addresses import check_host_port, check_http_url, check_redis_url, is_cluster
from theo_daemon.config import (
    Config,
    ControlConfig,
    DeadConfig,
    EventsConfig,
    IngressConfig,
    LedgerConfig,
    ModelConfig,
    Name,
    RedisConfig,
    ReplyConfig,
    RoutingConfig,
    ShortCount,
    TelemetryConfig,
)
from theo_daemon.config_budgets import read_budgets
from theo_daemon.config_models import ModelReader
from theo_daemon.config_names import check_names, read_groups, read_workflows
from theo_daemon.config_routing import read_global
from theo_daemon.config_table import Report, Shape, read_table, read_value, text_of, unknown
from theo_daemon.hash_slot import hash_tag, slot_of
from theo_daemon.reply_patterns import can_match, own_key
from theo_daemon.secret_source import SecretSource, is_reference
from theo_workers.errors import ConfigError
from theo_workers.secret import Secret

S = TypeVar("S", bound=Struct)

_SQLITE = "sqlite:///"
_NOT_TABLES = ("source", "warnings")
_TABLES = tuple(name for name in Config.__struct_fields__ if name not in _NOT_TABLES)


class Overrides(Struct, frozen=True, kw_only=True):
    """What command-line flags set over environment and file."""

    redis_url: str | None = None


def parse_config(
    raw: Mapping[str, Any],
    *,
    folder: Path,
    env: Mapping[str, str],
    overrides: Overrides | None = None,
    serving: bool = True,
    source: Path | None = None,
    warnings: Sequence[str] = (),
) -> Config:
    """The configuration in `raw`, with relative paths starting from `folder`.

    Unless `serving`, no model is needed, and the models' credentials are left out instead of looked up. Raises
    ConfigError: one line for each thing that is wrong.
    """
    report = Report()
    secrets = SecretSource(env, folder)
    for key in raw:
        if key not in _TABLES:
            report.error(f"top level {key}", unknown("table or key", key, _TABLES))
    redis = _redis(raw, secrets, env, overrides or Overrides(), report)
    set_routing = read_global(raw.get("routing", {}), report)
    reader = ModelReader(source=secrets, folder=folder, routing=set_routing, serving=serving, report=report)
    models = _models(raw.get("models", []), reader, serving, report)
    budgets = read_budgets(raw.get("budgets", []), report)
    config = Config(
        redis=redis,
        ingress=_ingress(raw, report),
        reply=_reply(raw, redis.prefix, report),
        dead=_section(DeadConfig, raw, "dead", report),
        events=_section(EventsConfig, raw, "events", report),
        control=_section(ControlConfig, raw, "control", report),
        ledger=_ledger(raw, folder, report),
        routing=RoutingConfig(**set_routing),
        models=models,
        groups=read_groups(raw.get("groups", {}), report),
        workflows=read_workflows(raw.get("workflows", {}), report),
        budgets=tuple(budgets.values()),
        telemetry=_section(TelemetryConfig, raw, "telemetry", report, otlp_endpoint=_otlp, http=_http),
        source=source,
    )
    check_names(config, budgets, raw, report)
    _one_slot(config, report)
    _doubts(config, report, serving=serving)
    if report.errors:
        count = len(report.errors)
        head = f"{source or 'the configuration'}: {count} {'problem' if count == 1 else 'problems'}"
        raise ConfigError("\n  ".join([head, *report.errors]))
    return structs.replace(config, warnings=(*warnings, *report.warnings))


def _section(
    cls: type[S], raw: Mapping[str, Any], name: str, report: Report, **readers: Callable[[Any], Any]
) -> S:
    return cls(**read_table(Shape(cls=cls, readers=readers), raw.get(name, {}), f"[{name}]", report))


def _redis(
    raw: Mapping[str, Any],
    secrets: SecretSource,
    env: Mapping[str, str],
    overrides: Overrides,
    report: Report,
) -> RedisConfig:
    def url(value: object) -> Secret:
        text = text_of(value, "an address, env:NAME or file:PATH").strip()
        address = secrets.resolve(text) if is_reference(text) else Secret(text)
        check_redis_url(address.reveal())
        return address

    over = {"--redis-url": overrides.redis_url, "THEO_REDIS_URL": env.get("THEO_REDIS_URL")}
    flag, text = next(((flag, text) for flag, text in over.items() if text), (None, None))
    if flag is None:
        return _section(RedisConfig, raw, "redis", report, url=url)
    # What is overridden is not looked up: its variable need not be set where the flag is used.
    redis = _section(RedisConfig, raw, "redis", report, url=lambda _: None)
    try:
        return structs.replace(redis, url=url(text))
    except ValueError as error:
        report.error(flag, str(error))
        return redis


def _ingress(raw: Mapping[str, Any], report: Report) -> IngressConfig:
    ingress = _section(IngressConfig, raw, "ingress", report, lanes=_lanes)
    if ingress.max_job_bytes > ingress.max_in_flight_bytes:
        report.error(
            "[ingress] max_job_bytes", "is above max_in_flight_bytes: the largest job could never start"
        )
    if "default" not in ingress.lanes:
        report.warn("[ingress] lanes", 'there is no lane "default": jobs pushed to P:jobs are not read')
    return ingress


def _lanes(value: object) -> dict[str, int]:
    if not isinstance(value, Mapping) or not value:
        raise ValueError(
            "must be a table of lanes and their shares, as { high = 6, default = 3 }, and not empty"
        )
    lanes = {}
    for name, share in value.items():
        try:
            lanes[read_value(Name, name)] = read_value(ShortCount, share)
        except ValueError as error:
            raise ValueError(f'lane "{name[:64]}": {error}') from None
    return lanes


def _reply(raw: Mapping[str, Any], prefix: str, report: Report) -> ReplyConfig:
    def key(text: str) -> str:
        return f"{prefix}:{text[2:]}" if text.startswith("P:") else text

    given = read_table(Shape(cls=ReplyConfig), raw.get("reply", {}), "[reply]", report)
    given["default"] = key(given.get("default", "P:replies"))
    given["allowed"] = tuple(key(text) for text in given.get("allowed", ("P:replies", "P:reply:*")))
    own = f"keys under {prefix}: are the router's own, except {prefix}:replies and {prefix}:reply:..."
    if own_key(prefix, given["default"]):
        report.error("[reply] default", own)
    for text in given["allowed"]:
        if not can_match(prefix, text):
            report.error("[reply] allowed", f'"{text[:64]}" can match nothing: {own}')
    return ReplyConfig(**given)


def _one_slot(config: Config, report: Report) -> None:
    """On Redis Cluster one script must reach every key, and it reaches those of one slot."""
    url, prefix, default = config.redis.url, config.redis.prefix, config.reply.default
    if url is None or not is_cluster(url.reveal()):
        return
    tag = hash_tag(prefix)
    if tag is None:
        name = prefix.replace("{", "").replace("}", "") or "theo"
        report.error(
            "[redis] prefix",
            f'on Redis Cluster it needs braces, as in "{{{name}}}": all keys then share a server',
        )
    elif slot_of(default) != slot_of(prefix):
        report.error("[reply] default", f"on Redis Cluster it needs the hash tag of redis.prefix, {{{tag}}}")


def _ledger(raw: Mapping[str, Any], folder: Path, report: Report) -> LedgerConfig:
    ledger = _section(LedgerConfig, raw, "ledger", report, url=_ledger_url)
    if ledger.url == "redis":
        return ledger
    return structs.replace(ledger, url=Path(os.path.abspath(folder / ledger.url)))  # the default's path too


def _ledger_url(value: object) -> Path | Literal["redis"]:
    if value == "redis":
        return "redis"
    path = value[len(_SQLITE) :] if isinstance(value, str) and value.startswith(_SQLITE) else ""
    if not path or path == ":memory:" or "?" in path or "\0" in path:
        raise ValueError('allowed are "sqlite:///PATH", relative to this file\'s folder, and "redis"')
    return Path(path)


def _otlp(value: object) -> str:
    text = text_of(value, 'an http:// or https:// URL, or "" for off')
    return check_http_url(text) if text else ""


def _http(value: object) -> str:
    text = text_of(value, 'HOST:PORT, or "" for off')
    return check_host_port(text) if text else ""


def _models(raw: object, reader: ModelReader, serving: bool, report: Report) -> tuple[ModelConfig, ...]:
    if not isinstance(raw, list):
        report.error("[models]", "each model is a table of its own: write [[models]], in double brackets")
        return ()
    if not raw and serving:
        report.error("[[models]]", "there is none: the router needs at least one model")
    read = (reader.read(table, number) for number, table in enumerate(raw, 1))
    return tuple(model for model in read if model is not None)


def _doubts(config: Config, report: Report, *, serving: bool) -> None:
    """What can run, but will surprise."""
    if not serving:
        return
    longest_s = max([config.routing.timeout_s, *(model.routing.timeout_s for model in config.models)])
    if config.ingress.drain_s < longest_s:
        report.warn(
            "[ingress] drain_s", f"is below timeout_s, {longest_s:.15g}: calls cut off may be paid twice"
        )
    if config.routing.default is None:
        report.warn("[routing] default", "is not set: jobs must name a model, or their workflow must")
