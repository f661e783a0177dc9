"""One entry of `model_list` becomes one `[[models]]` table: what each of its keys means here, as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from theo_daemon.config import CAP_UNDER_CEILINGS
from theo_daemon.litellm.draft import Draft
from theo_daemon.litellm.endpoint import TAKEN, LeftOut, read_endpoint
from theo_daemon.litellm.values import Place, Values

Read = Callable[[Values, Any, str], Any]

CHAT_MODES = ("chat", "responses", None)

# key of litellm_params -> (key of [[models]], how it is read)
MODEL_KEYS: dict[str, tuple[str, Read]] = {
    "rpm": ("rpm", Values.count),
    "tpm": ("tpm", Values.count),
    "max_parallel_requests": ("concurrency", Values.count),
    "max_tokens": ("max_output_tokens", Values.count),
    "max_completion_tokens": ("max_output_tokens", Values.count),
    "input_cost_per_token": ("input_cost_per_mtok", Values.per_mtok),
    "output_cost_per_token": ("output_cost_per_mtok", Values.per_mtok),
    "region_name": ("region", Values.text),
}
# key of model_info -> the same; litellm_params win
INFO_KEYS: dict[str, tuple[str, Read]] = {
    "max_input_tokens": ("context_window", Values.count),
    "max_output_tokens": ("max_output_tokens", Values.count),
    "input_cost_per_token": ("input_cost_per_mtok", Values.per_mtok),
    "output_cost_per_token": ("output_cost_per_mtok", Values.per_mtok),
}
# key of litellm_params -> (key of a model's routing, how it is read)
ROUTING_KEYS: dict[str, tuple[str, Read]] = {
    "timeout": ("timeout_s", Values.seconds),
    "request_timeout": ("timeout_s", Values.seconds),
    "cooldown_time": ("circuit_breaker_timeout_s", Values.seconds),
    "max_budget": ("spend_ceiling", Values.usd),
    "soft_budget": ("soft_budget", Values.usd),
    "budget_duration": ("spend_window", Values.window),
}
CAP_TOLD = "is sent with every call, and lowers what a job asks for"
MODEL_TOLD = {"max_tokens": CAP_TOLD, "max_completion_tokens": CAP_TOLD}

_JOB = "jobs must send it in params"
NO_EQUIVALENT: dict[str, str] = {
    **dict.fromkeys(
        ("temperature", "top_p", "top_k", "seed", "stop", "presence_penalty", "frequency_penalty"), _JOB
    ),
    **dict.fromkeys(
        ("response_format", "tools", "tool_choice", "reasoning_effort", "thinking", "logit_bias"), _JOB
    ),
    **dict.fromkeys(("user", "n", "logprobs", "top_logprobs", "extra_body", "parallel_tool_calls"), _JOB),
    "stream_timeout": "a stream has the call's own timeout: for its first byte, between two pieces, and in all",
    "max_retries": "see num_retries of router_settings: attempts are counted for a job, not for a deployment",
    "num_retries": "attempts are counted for a job, over all of its models: routing.max_attempts",
    "tags": "there are no tags: give a group its own name, or a workflow its own model",
    "mock_response": 'a model of provider "scripted" answers from the configuration',
    "tpm_limit_type": "rpm and tpm are limits of the last 60 seconds for all processes",
    "use_in_pass_through": "there is no pass-through: every job has the form of the contract",
    "merge_reasoning_content_in_choices": "reasoning is left out of the output",
    "drop_params": "params that a provider cannot take are refused, with a message",
    "cache_control_injection_points": "prompt caching is left to the jobs' own messages",
    "aws_region_name": "Bedrock is not reached here",
}
INFO_NO_EQUIVALENT: dict[str, str] = {
    "max_tokens": "can mean the window or the answer: set context_window and max_output_tokens by hand",
    "base_model": "a price is looked up by the name that the provider is called with; where that is unknown set "
    "input_cost_per_mtok and output_cost_per_mtok",
    "access_groups": "who may push may use every model; Redis ACLs say who may push",
    "team_id": "there are no teams: tenants are named by the jobs",
}
INFO_SILENT = frozenset(
    [
        "id",
        "mode",
        "version",
        "description",
        "metadata",
        "litellm_provider",
        "db_model",
        "created_at",
        "updated_at",
        "created_by",
        "updated_by",
        "key",
        "health_check_model",
        "health_check_timeout",
        "disable_background_health_check",
    ]
)


def read_deployment(
    entry: Mapping[str, Any], name: str, credentials: Mapping[str, Mapping[str, Any]], place: Place
) -> Draft:
    """Raises LeftOut."""
    params = _mapping(entry.get("litellm_params") or entry.get("params"), "litellm_params", place)
    info = _mapping(entry.get("model_info"), "model_info", place)
    params = {**_credentials(params, credentials), **params}
    for key in ("rpm", "tpm"):  # older files have them one level above
        if entry.get(key) is not None:
            params.setdefault(key, entry[key])
    mode = info.get("mode")
    if mode not in CHAT_MODES:
        raise LeftOut(f"mode {str(mode)[:40]} is not offered here: chat only")
    draft = read_endpoint(name, name, params, str(mode), place)
    _read_keys(draft, params, place)
    _read_info(draft, info, Place(place.values, f"{place.where} model_info"))
    _check_ceiling(draft, place)
    draft.order = int(place.number(params, "order") or 0)
    draft.weight = place.number(params, "weight")
    return draft


def _read_keys(draft: Draft, params: Mapping[str, Any], place: Place) -> None:
    for key, value in params.items():
        at = f"{place.where} {key}"
        if value is None or key in TAKEN or key in ("weight", "order", "litellm_credential_name"):
            continue
        if key in MODEL_KEYS:
            ours, read = MODEL_KEYS[key]
            setattr(draft, ours, read(place.values, value, at))
            if key in MODEL_TOLD:
                place.told(f"became {ours}: it {MODEL_TOLD[key]}", key)
        elif key in ROUTING_KEYS:
            ours, read = ROUTING_KEYS[key]
            if (number := read(place.values, value, at)) is not None:
                draft.routing[ours] = number
        else:
            place.lost(NO_EQUIVALENT.get(key, "has no equivalent here"), key)


def _read_info(draft: Draft, info: Mapping[str, Any], place: Place) -> None:
    for key, value in info.items():
        if value is None or key in INFO_SILENT or key.startswith("supports_"):
            continue
        if key not in INFO_KEYS:
            place.lost(INFO_NO_EQUIVALENT.get(key, "has no equivalent here"), key)
            continue
        ours, read = INFO_KEYS[key]
        if getattr(draft, ours) is None:
            setattr(draft, ours, read(place.values, value, f"{place.where} {key}"))


def _check_ceiling(draft: Draft, place: Place) -> None:
    routing = draft.routing
    if "spend_ceiling" not in routing:
        for key in ("soft_budget", "spend_window"):
            if routing.pop(key, None) is not None:
                place.lost(f"{key} without a max_budget says nothing")
        return
    if routing.get("soft_budget", 0.0) > routing["spend_ceiling"]:
        del routing["soft_budget"]
        place.lost("soft_budget is above max_budget, and was left out")
    if "spend_window" not in routing:
        place.told("max_budget without a budget_duration: the ceiling never resets")
    else:
        routing["calendar_aligned"] = False  # its windows begin with the first call
    if draft.max_output_tokens is None:
        place.lost(
            "under a ceiling a call needs a known bound: without max_output_tokens, answers to jobs that send no "
            f"max_tokens are capped at {CAP_UNDER_CEILINGS} tokens, or fewer if the ceiling is low"
        )


def _credentials(
    params: Mapping[str, Any], credentials: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any]:
    name = params.get("litellm_credential_name")
    if name is None:
        return {}
    if not isinstance(name, str) or name not in credentials:
        raise LeftOut("litellm_credential_name names none of credential_list")
    return credentials[name]


def _mapping(value: Any, key: str, place: Place) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        place.lost("is no mapping", key)
        return {}
    return dict(value)
