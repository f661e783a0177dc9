"""A LiteLLM proxy's file becomes ours: what is taken over, what is said of the rest, and what is never copied."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.daemon.litellm_files import (
    A_COMPANY_S,
    AZURE_AND_FALLBACKS,
    CREDENTIALS_AND_ANCHORS,
    FILES,
    HOSTILE,
    LITERAL_SECRETS,
    MANY_PROVIDERS,
    NO_COOLDOWNS,
    ODD_NAMES,
    ODD_VALUES,
    ORDERS_AND_WEIGHTS,
    SECRETS,
    SELF_HOSTED,
    SETTINGS_OF_ALL_KINDS,
    WHAT_CANNOT_BE,
)
from theo_daemon.config import Config, ModelConfig
from theo_daemon.config_parse import parse_config
from theo_daemon.litellm import Imported, convert
from theo_daemon.litellm.deployment import MODEL_KEYS, ROUTING_KEYS
from theo_daemon.litellm.providers import PROVIDERS
from theo_daemon.litellm.settings_table import ROUTING_KEYS as SETTINGS
from theo_daemon.litellm.settings_table import STRATEGIES
from theo_daemon.litellm.yaml_text import read_yaml
from theo_workers.errors import ConfigError


def imported(text: str, **env: str) -> Imported:
    return convert(read_yaml(text.encode(), "config.yaml"), source="config.yaml", env=env)


def config_of(result: Imported) -> Config:
    """As `serve` would read it, with every variable set that is asked for."""
    env = {name: f"value-of-{name}" for name in result.wanted}
    return parse_config(tomllib.loads(result.toml), folder=Path("/srv"), env=env)


def models_of(result: Imported) -> dict[str, ModelConfig]:
    return {model.name: model for model in config_of(result).models}


def said(result: Imported) -> str:
    return "\n".join(map(str, (*result.left_out, *result.notes)))


@pytest.mark.parametrize("name", list(FILES))
def test_the_result_is_accepted_and_has_no_secret_in_it(name: str) -> None:
    result = imported(FILES[name])
    assert config_of(result).models
    everything = result.toml + said(result) + repr(result)
    assert [secret for secret in SECRETS if secret in everything] == []


def test_endpoints_limits_prices_and_budgets_are_taken_over() -> None:
    models = models_of(imported(AZURE_AND_FALLBACKS))
    eu, us, claude = models["gpt-4o-1"], models["gpt-4o-2"], models["claude"]
    assert (eu.provider, eu.model) == ("openai", "gpt-4o-eu")
    assert eu.base_url == "https://eu.openai.azure.com/openai/deployments/gpt-4o-eu"
    assert (eu.query, eu.rpm, eu.tpm, eu.concurrency) == ({"api-version": "2024-10-21"}, 6, 1000, 8)
    assert eu.api_key is not None
    assert eu.api_key.reveal() == "value-of-AZURE_API_KEY_EU"
    assert (eu.routing.timeout_s, us.routing.timeout_s) == (300, 30)
    # behind a name of its own it is not recognised as Azure: the key goes into Azure's header
    assert (us.api_key, us.headers) == (None, {"api-key": "value-of-AZURE_API_KEY_US"})
    assert (claude.provider, claude.context_window, claude.max_output_tokens) == ("anthropic", 200_000, 4096)
    assert (claude.input_cost_per_mtok, claude.output_cost_per_mtok) == (3.0, 15.0)
    assert (claude.routing.spend_ceiling, str(claude.routing.spend_window)) == (20.0, "30d")
    assert (claude.routing.warning_ratio, claude.routing.calendar_aligned) == (0.5, False)


def test_deployments_of_one_name_are_a_group_by_their_weights_and_fallbacks_come_last() -> None:
    result = imported(AZURE_AND_FALLBACKS)
    config, models = config_of(result), models_of(result)
    assert config.groups["gpt-4o"] == ("gpt-4o-1", "gpt-4o-2", "claude.fallback")
    assert config.groups["gpt-4"] == config.groups["gpt-4o"]
    assert [models[name].routing.weight for name in config.groups["gpt-4o"]] == [6.0, 60.0, 0.0]
    assert models["claude.fallback"].model == models["claude"].model
    assert "together they may spend twice as much" in said(result)


def test_orders_and_several_fallbacks_are_asked_one_after_another() -> None:
    result = imported(ORDERS_AND_WEIGHTS)
    config, models = config_of(result), models_of(result)
    weights = {name: models[name].routing.weight for name in config.groups["m"]}
    assert weights == {"m-1": 9.0, "m-2": 1.0, "m-3": 0.0, "n.fallback": 1e-12, "o.fallback": 0.0}
    assert "m-3 has no weight, the first one has: weight 0, as before" in said(result)
    assert "'nobody' names no other model" in said(result)


def test_settings_for_all_models_are_taken_over() -> None:
    result = imported(AZURE_AND_FALLBACKS)
    routing = config_of(result).routing
    assert (routing.max_attempts, routing.timeout_s) == (3, 30)  # router_settings win
    assert (routing.circuit_breaker_threshold, routing.circuit_breaker_timeout_s) == (4, 45)
    assert not routing.cache_enabled  # LiteLLM caches where it is told to
    assert config_of(result).ingress.drain_s > 300


def test_what_has_no_equivalent_is_said() -> None:
    result = imported(SETTINGS_OF_ALL_KINDS)
    text = said(result)
    for key in (
        *("drop_params", "success_callback", "routing_strategy", "routing_strategy_args", "retry_policy"),
        *("allowed_fails_policy", "redis_host", "redis_password", "provider_budget_config", "alerting"),
        *("guardrails", "include", "cache_params"),
    ):
        assert key in text, key
    config = config_of(result)
    assert config.routing.default == "small"
    assert not config.routing.cache_enabled  # similar questions are not the same question
    assert {model.concurrency for model in config.models} == {20}
    assert config.groups["small"] == ("small-1", "safe.fallback")
    assert "safe" not in config.groups


@pytest.mark.parametrize("key", ["context_window_fallbacks", "content_policy_fallbacks"])
def test_fallbacks_by_kind_are_written(key: str) -> None:
    rows = tomllib.loads(imported(SETTINGS_OF_ALL_KINDS).toml)["routing"][key]
    assert rows == {
        "small": {"context_window_fallbacks": ["large"], "content_policy_fallbacks": ["safe"]}[key]
    }


def test_a_ceiling_over_everything_is_a_budget_without_selectors() -> None:
    (budget,) = config_of(imported(SETTINGS_OF_ALL_KINDS)).budgets
    assert (budget.spend_ceiling, str(budget.spend_window), budget.calendar_aligned) == (100.0, "1mo", False)
    assert (budget.tenant, budget.workflow, budget.group, budget.model) == (None, None, None, None)


def test_what_a_company_has_set_up_is_all_there() -> None:
    """Ceilings of every kind, fallbacks by kind, regions, circuits, retries and sizes."""
    result = imported(A_COMPANY_S)
    config, models = config_of(result), models_of(result)
    routing = config.routing
    assert (routing.strategy, routing.predictive_usd_per_s) == ("predictive", 1.0)
    assert (routing.max_attempts, routing.circuit_breaker_threshold) == (5, 5)
    assert (routing.circuit_breaker_timeout_s, routing.timeout_s) == (20, 90)
    assert (routing.cache_enabled, routing.cache_ttl_seconds) == (True, 900)
    assert routing.context_window_fallbacks == {"chat": ("roomy",), "careful": ("roomy",)}
    assert routing.content_policy_fallbacks == {"chat": ("careful",)}
    assert (config.ingress.max_job_bytes, routing.max_response_bytes) == (4_000_000, 8_000_000)
    assert [models[name].region for name in config.groups["chat"]] == ["eu", "us"]
    assert {model.concurrency for model in models.values()} == {40}
    roomy = models["roomy"].routing
    assert (roomy.spend_ceiling, str(roomy.spend_window), roomy.warning_ratio) == (30.0, "1d", 0.8)
    budgets = [
        (one.tenant, one.model, one.spend_ceiling, str(one.spend_window), one.calendar_aligned)
        for one in config.budgets
    ]
    assert budgets == [
        (None, None, 500.0, "30d", False),
        ("*", None, 2.5, "total", True),
        (None, "careful", 10.0, "1d", False),
    ]
    text = said(result)
    assert (
        "provider_budget_config azure: budgets are by model, not by provider: give each of chat-1, chat-2"
        in text
    )
    assert "provider_budget_config cohere: none of its models was taken over" in text
    assert "provider_budget_config openai: is no mapping" in text
    assert "an answer that neither its job nor max_output_tokens caps gets 4096 tokens at most" in text
    assert [warning.split(":")[0] for warning in config.warnings] == ["[routing] default"]


def test_circuits_that_were_switched_off_stay_so_and_numbers_for_all_errors_win_over_those_by_kind() -> None:
    result = imported(NO_COOLDOWNS)
    routing = config_of(result).routing
    assert (routing.circuit_breaker_threshold, routing.circuit_breaker_failure_ratio) == (1_000_000, 0.0)
    assert routing.max_attempts == 1


def test_fallbacks_of_several_steps_are_not_given_up_for_a_strategy() -> None:
    result = imported(NO_COOLDOWNS)
    assert config_of(result).routing.strategy == "weighted"
    assert "routing_strategy: was left out" in said(result)
    assert "routing_strategy: became" not in said(result)
    one_step = imported(NO_COOLDOWNS.replace("[b, c]", "[b]"))
    assert config_of(one_step).routing.strategy == "predictive"
    assert config_of(one_step).routing.predictive_usd_per_s == 0


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_is_accepted(strategy: str) -> None:
    result = imported(NO_COOLDOWNS.replace("cost-based-routing", strategy).replace("[b, c]", "[b]"))
    assert config_of(result).routing.strategy in {"weighted", "predictive"}


def test_literal_keys_become_variables_to_set_the_same_key_the_same_variable() -> None:
    result = imported(LITERAL_SECRETS)
    models = models_of(result)
    assert set(result.wanted) == {"A_API_KEY", "B_X_API_TOKEN"}
    keys = {name: model.api_key.reveal() for name, model in models.items() if model.api_key is not None}
    assert keys == {"a": "value-of-A_API_KEY", "b": "value-of-A_API_KEY", "c": "value-of-B_X_API_TOKEN"}
    assert models["a"].headers == {"OpenAI-Organization": "org-1"}
    assert models["b"].headers == {"X-Api-Token": "value-of-B_X_API_TOKEN", "X-Team": "red"}
    assert "GROQ_API_KEY" in said(result)
    assert "was not copied" in said(result).lower()


def test_servers_of_one_s_own_get_their_address_and_nobody_else_s_key() -> None:
    models = models_of(imported(SELF_HOSTED))
    assert {name: model.base_url for name, model in models.items()} == {
        "llama": "http://gpu:11434/v1",
        "mistral-7b": "http://localhost:11434/v1",
        "qwen": "http://vllm:8000/v1",
        "opt": "http://opt:4000/v1",
        "via-proxy": "https://proxy.example.com",
    }
    assert [name for name, model in models.items() if model.api_key is not None] == ["via-proxy"]
    assert models["qwen"].model == "Qwen/Qwen2.5-7B-Instruct"
    assert models["opt"].model == "facebook/opt-125m"


def test_providers_are_found_by_their_prefix() -> None:
    result = imported(MANY_PROVIDERS)
    models = models_of(result)
    assert {name: (model.provider, model.model) for name, model in models.items()} == {
        "gemini": ("gemini", "gemini-2.5-flash"),
        "vertex": ("gemini", "gemini-2.5-pro"),
        "deepseek": ("openai", "deepseek-chat"),
        "router": ("openai", "anthropic/claude-3.5-sonnet"),
        "grok": ("openai", "grok-3"),
        "fire": ("openai", "accounts/fireworks/models/llama-v3p1-70b-instruct"),
        "o3": ("openai_responses", "o3-mini"),
        "plain-claude": ("anthropic", "claude-3-5-haiku-latest"),
    }
    assert models["vertex"].base_url == (
        "https://europe-west1-aiplatform.googleapis.com/v1/projects/p-1/locations/europe-west1/publishers/google"
    )
    assert models["vertex"].region == "europe-west1"
    assert "VERTEX_AUTHORIZATION" in result.wanted


def test_what_cannot_be_reached_is_left_out_with_the_reason() -> None:
    result = imported(WHAT_CANNOT_BE)
    assert list(models_of(result)) == ["fine"]
    reasons = {note.where: note.text for note in result.left_out}
    assert len(reasons) == 14
    for where, reason in {
        "model_list #2 'bedrock'": "signs requests",
        "model_list #3 '*'": "wildcards",
        "model_list #5 'embed'": "chat only",
        "model_list #6 'mystery'": "cannot be told",
        "model_list #7 'newcomer'": "'newcomer_ai' is not known here",
        "model_list #8 'no-base'": "no api_base",
        "model_list #9 'unset'": "api_base is not known",
        "model_list #10 'entra'": "Entra ID",
        "model_list #12 'login'": "must hold no user and no password",
        "model_list #13": "no model_name",
        "model_list #14 'none-at-all'": "names no model",
        "model_list #15": "no model_name",
    }.items():
        assert reason in reasons[where]
    assert "NOT_SET_ANYWHERE, which is not set here" in said(result)


def test_addresses_from_the_environment_are_read_there_and_that_is_said() -> None:
    result = imported(WHAT_CANNOT_BE, NOT_SET_ANYWHERE="https://now.openai.azure.com")
    assert models_of(result)["unset"].base_url == "https://now.openai.azure.com/openai/deployments/gpt-4"
    assert "the present value of the environment variable NOT_SET_ANYWHERE was written down" in said(result)


def test_credentials_by_name_and_anchors_are_followed() -> None:
    result = imported(CREDENTIALS_AND_ANCHORS)
    (model,) = models_of(result).values()
    assert (model.name, model.rpm, model.routing.timeout_s) == ("x", 20, 20)
    assert model.base_url == "https://eu.openai.azure.com/openai/deployments/x"
    assert "names none of credential_list" in said(result)
    assert "common: this section has no equivalent here" in said(result)


def test_names_that_are_none_here_are_changed_and_that_is_said() -> None:
    result = imported(ODD_NAMES)
    models = models_of(result)
    assert list(models) == [
        "openai-gpt-4o",
        "openai-gpt-4o-2",
        "evil-ledger-url-sqlite:-etc-x",
        "___",
        "model",
    ]
    assert models["evil-ledger-url-sqlite:-etc-x"].model == 'x"\n# y\t\x7f\u2028z'
    assert "ledger" not in tomllib.loads(result.toml)
    assert "jobs must ask for 'openai-gpt-4o'" in said(result)


def test_values_that_make_no_sense_are_left_out_and_told() -> None:
    result = imported(ODD_VALUES)
    models = models_of(result)
    assert (models["a"].rpm, models["a"].tpm, models["a"].concurrency) == (60, None, 64)
    assert models["a"].input_cost_per_mtok == 0.15
    assert (models["a"].routing.spend_ceiling, models["b"].routing.spend_ceiling) == (None, 5.0)
    for key in (
        "tpm",
        "timeout",
        "max_parallel_requests",
        "weight",
        "cooldown_time",
        "max_budget",
        "budget_duration",
    ):
        assert f"model_list #1 'a' {key}" in said(result), key
    assert "windows are whole hours" in said(result)
    assert "soft_budget is above max_budget" in said(result)


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_files_are_refused_in_words(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        convert(read_yaml(HOSTILE[name], "config.yaml"), source="config.yaml", env={})
    assert "config.yaml" in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_mistake_is_told_with_its_line() -> None:
    with pytest.raises(ConfigError, match="line 3: a key that is given twice"):
        read_yaml(b"a: 1\nb: 2\na: 3\n", "c.yaml")


NAMES = st.text("abcdefghij_", min_size=3, max_size=12).map(lambda name: f"zz_{name}")


@given(
    NAMES,
    st.sampled_from(
        ["litellm_params", "model_info", "litellm_settings", "router_settings", "general_settings", "top"]
    ),
)
@settings(max_examples=60, deadline=None)
def test_no_key_is_dropped_silently(key: str, place: str) -> None:
    document: dict[str, Any] = {
        "model_list": [{"model_name": "m", "litellm_params": {"model": "gpt-4o"}, "model_info": {}}]
    }
    entry = document["model_list"][0]
    target = (
        document if place == "top" else entry[place] if place in entry else document.setdefault(place, {})
    )
    target[key] = "value-that-must-not-be-shown"
    result = convert(document, source="x", env={})
    assert any(key in note.where for note in result.notes)
    assert "must-not-be-shown" not in result.toml + said(result)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["inf", "nan", "1e999", "60", "os.environ/X", "1h"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        "model",
        "api_base",
        "api_key",
        "rpm",
        "tpm",
        "weight",
        "order",
        "timeout",
        "max_budget",
        "budget_duration",
        "extra_headers",
        "organization",
        "api_version",
        "input_cost_per_token",
        "max_tokens",
        "custom_llm_provider",
        "litellm_credential_name",
        "region_name",
    ]
)
PARAMS = st.dictionaries(KEYS, JSON, max_size=5).map(lambda more: {"model": "openai/gpt-4o", **more})
ENTRIES = st.fixed_dictionaries(
    {"model_name": st.text(max_size=8) | JSON, "litellm_params": PARAMS | JSON}, optional={"model_info": JSON}
)


def section(*keys: str) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(keys), JSON, max_size=3) | JSON


DOCUMENTS = st.fixed_dictionaries(
    {"model_list": st.lists(ENTRIES, min_size=1, max_size=3)},
    optional={
        "router_settings": section(
            "fallbacks", "timeout", "num_retries", "model_group_alias", "allowed_fails"
        ),
        "litellm_settings": section(
            "cache", "cache_params", "default_fallbacks", "max_budget", "request_timeout"
        ),
        **dict.fromkeys(("general_settings", "credential_list", "environment_variables"), JSON),
    },
)


@given(DOCUMENTS)
@settings(max_examples=150, deadline=None)
def test_whatever_stands_in_a_file_it_becomes_a_configuration_or_a_refusal_in_words(document: Any) -> None:
    try:
        result = convert(document, source="x.yaml", env={})
    except ConfigError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert config_of(result).models
    assert not refusal or refusal.startswith("x.yaml: none of its models can be taken over")


def test_the_page_for_newcomers_lists_every_provider_that_is_known() -> None:
    page = (Path(__file__).parents[2] / "deploy" / "docs" / "litellm.md").read_text()
    section_of_providers = page.partition("## Providers")[2]
    assert [name for name in PROVIDERS if f"`{name}`" not in section_of_providers] == []
    for key in (*MODEL_KEYS, *ROUTING_KEYS, *SETTINGS):
        assert key in NOT_WORTH_A_LINE or f"`{key}`" in page, key


NOT_WORTH_A_LINE = {"max_completion_tokens", "region_name"}
