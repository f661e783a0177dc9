from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec import structs

from theo_daemon.config import Config
from theo_daemon.config_parse import Overrides, parse_config
from theo_daemon.spend_window import parse_window
from theo_workers.errors import ConfigError
from theo_workers.secret import Secret
from theo_workers.upstreams.script import Fate

FOLDER = Path("/srv/router")
ENV = {"KEY": "sk-secret-value", "EMPTY": " ", "BROKEN": "sk-secret value", "URL": "redis://:s3cret@h:1/0"}
OTHER_MODEL = '[[models]]\nname = "other"\nprovider = "scripted"\n'
OTHER = "[[models]]\nname = 'b'\nprovider = 'scripted'"
MODEL = '[[models]]\nname = "fast"\nprovider = "scripted"\n'


def parse(
    text: str,
    *,
    model: str = MODEL,
    env: Mapping[str, str] = ENV,
    overrides: Overrides | None = None,
    serving: bool = True,
) -> Config:
    return parse_config(
        tomllib.loads(f"{text}\n{model}"), folder=FOLDER, env=env, overrides=overrides, serving=serving
    )


def complaint(text: str, *, model: str = MODEL, env: Mapping[str, str] = ENV) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, model=model, env=env)
    return str(caught.value)


def with_model(lines: str) -> str:
    return MODEL + lines


# Each: what is wrong, and the pieces of the message that tell table, key and what is allowed.
BAD_TABLES = [
    # unknown names
    ("[ingres]", ["top level ingres: unknown table or key", 'did you mean "ingress"?']),
    ('prefix = "x"', ["top level prefix: unknown table or key"]),
    (
        "[ingress]\nmax_in_fligth = 5",
        ["[ingress] max_in_fligth: unknown key", 'did you mean "max_in_flight"?'],
    ),
    ("[ingress]\nMaxInFlight = 5", ['did you mean "max_in_flight"?']),
    ('[redis]\nuri = "redis://h"', ["[redis] uri: unknown key", 'did you mean "url"?']),
    ("[reply]\nzzz = 1", ["[reply] zzz: unknown key", "valid are: allowed, default, max_len, ttl_s"]),
    ("[routing]\ntimeout = 5", ["[routing] timeout: unknown key", 'did you mean "timeout_s"?']),
    ("[workflows.sum]\nmodel = 'fast'\nmodle = 'x'", ["[workflows.sum] modle: unknown key", '"model"']),
    # wrong types
    ("[ingress]\nmax_in_flight = '5'", ["[ingress] max_in_flight", '"5" is not allowed', "a whole number"]),
    ("[ingress]\nmax_in_flight = 5.5", ["[ingress] max_in_flight: 5.5", "a whole number"]),
    ("[ingress]\nmax_in_flight = true", ["[ingress] max_in_flight: true", "a whole number"]),
    ("[ingress]\nlease_s = '30s'", ["[ingress] lease_s", "a number, above 0"]),
    ("[ingress]\ngroup = 5", ["[ingress] group: 5 is not allowed", "1-64 of"]),
    ("[routing]\ncache_enabled = 'yes'", ["[routing] cache_enabled", "true or false"]),
    ("[routing]\ncache_enabled = 1", ["[routing] cache_enabled: 1", "true or false"]),
    ("[dead]\nmax_len = 1979-05-27", ["[dead] max_len: a date or time", "a whole number, at least 1"]),
    ("ingress = 5", ["[ingress]: this is a number, it must be a table"]),
    ("[[routing]]", ["[routing]: this is a list, it must be a table"]),
    ("[reply]\nallowed = 'P:replies'", ["[reply] allowed", "a list, each item a text"]),
    ("[reply]\nallowed = [1]", ["[reply] allowed", "a list"]),
    ("[redis]\nurl = 6379", ["[redis] url: a number is not allowed"]),
    # out of range
    ("[ingress]\nmax_in_flight = 0", ["[ingress] max_in_flight: 0", "at least 1"]),
    ("[ingress]\nlease_s = 0", ["[ingress] lease_s: 0", "above 0"]),
    ("[ingress]\nlease_s = inf", ["[ingress] lease_s: inf"]),
    ("[ingress]\nlease_s = nan", ["[ingress] lease_s: nan"]),
    ("[ingress]\nmax_deliveries = -1", ["[ingress] max_deliveries: -1", "at least 1"]),
    (f"[dead]\nmax_len = {2**70}", ["[dead] max_len"]),
    ("[events]\nmax_len = 0", ["[events] max_len"]),
    ("[control]\nmax_len = 0", ["[control] max_len"]),
    ("[routing]\nweight = -1", ["[routing] weight: -1", "at least 0"]),
    ("[routing]\nspend_ceiling = -0.01", ["[routing] spend_ceiling: -0.01", "at least 0"]),
    ("[routing]\nspend_ceiling = nan", ["[routing] spend_ceiling: nan"]),
    ("[routing]\nwarning_ratio = 80", ["[routing] warning_ratio: 80", "at least 0 and at most 1"]),
    ("[routing]\ncircuit_breaker_threshold = 0", ["[routing] circuit_breaker_threshold: 0", "at least 1"]),
    (
        "[routing]\ncircuit_breaker_failure_ratio = 50",
        ["[routing] circuit_breaker_failure_ratio: 50", "at most 1"],
    ),
    ("[routing]\ncircuit_breaker_minimum_calls = 0", ["circuit_breaker_minimum_calls: 0", "at least 1"]),
    ("[routing]\ncircuit_breaker_window_s = 0", ["circuit_breaker_window_s: 0", "above 0"]),
    ("[routing]\ncircuit_breaker_ramp_s = -1", ["circuit_breaker_ramp_s: -1", "at least 0"]),
    ("[routing]\ncircuit_breaker_adaptive = 1", ["circuit_breaker_adaptive: 1", "true or false"]),
    (
        "[routing]\ncircuit_breaker_adaptive = 'drift'",
        ['circuit_breaker_adaptive: "drift"', 'true or false or one of "history", "throttle"'],
    ),
    ("[routing]\nadaptive_concurrency = 'yes'", ["adaptive_concurrency", "true or false"]),
    (
        "[routing]\ncircuit_breaker_failure_rate = 0.5",
        ['did you mean "circuit_breaker_failure_ratio"?'],
    ),
    ("[routing]\nmax_attempts = 0", ["[routing] max_attempts"]),
    ("[ingress]\nmax_job_bytes = 300\nmax_in_flight_bytes = 200", ["[ingress] max_job_bytes", "never start"]),
    # closed sets
    ("[routing]\nwhen_unavailable = 'wait'", ["[routing] when_unavailable", '"fail", "park"']),
    ("[ledger]\non_unknown = 'resend'", ["[ledger] on_unknown", '"fail", "retry"']),
    ("[telemetry]\nlog_level = 'trace'", ["[telemetry] log_level", '"debug"']),
    # windows and aliases
    ("[routing]\nspend_window = '1w'", ['[routing] spend_window: "1w" is not allowed', '"120mo"']),
    ("[routing]\nspend_window = 30", ['[routing] spend_window: "30" is not allowed']),
    ("[routing]\nbudget_duration = '30s'", ['[routing] budget_duration: "30s" is not allowed']),
    (
        "[routing]\nspend_ceiling = 1\nmax_budget = 2",
        ["[routing] max_budget", "another name for spend_ceiling"],
    ),
    ("[routing]\nbudget_duration = '1d'\nspend_window = '2d'", ["another name for budget_duration"]),
    ("[routing]\nsoft_budget = 5", ["[routing] soft_budget", "needs a spend_ceiling"]),
    ("[routing]\nsoft_budget = 5\nmax_budget = 4", ["[routing] soft_budget", "5 is above spend_ceiling, 4"]),
    ("[routing]\nsoft_budget = 5\nspend_ceiling = 10\nwarning_ratio = 0.8", ["soft_budget", "keep one"]),
    # lanes, names, references
    ("[ingress]\nlanes = {}", ["[ingress] lanes", "not empty"]),
    ("[ingress]\nlanes = [1]", ["[ingress] lanes", "a table"]),
    ("[ingress]\nlanes = { high = 0 }", ['[ingress] lanes: lane "high": 0', "at least 1"]),
    ("[ingress]\nlanes = { high = 1.5 }", ['lane "high": 1.5', "a whole number"]),
    ("[ingress]\nlanes = { high = true }", ['lane "high": true']),
    ("[ingress]\nlanes = { 'a b' = 1 }", ['lane "a b"', "1-64 of"]),
    ("[redis]\nprefix = ''", ["[redis] prefix"]),
    ("[redis]\nprefix = 'a*'", ["[redis] prefix"]),
    ("[groups]\nchat = []", ["[groups] chat: is empty"]),
    ("[groups]\nchat = 'fast'", ["[groups] chat: must be a list of model names"]),
    ("[groups]\nchat = [1]", ["[groups] chat: must be a list of model names"]),
    ("[groups]\nchat = ['fats']", ['[groups] chat: "fats": unknown model', 'did you mean "fast"?']),
    ("[groups]\nchat = ['fast', 'fast']", ['[groups] chat: "fast" is in it twice']),
    ("[groups]\nfast = ['fast']", ["[groups] fast: a model has this name already"]),
    ("[groups]\na = ['fast']\nb = ['a']", ['[groups] b: "a" is a group']),
    ("[groups]\n'a b' = ['fast']", ["[groups] a b: this name is not allowed", "1-64 of"]),
    ("groups = 1", ["[groups]: must be a table of lists"]),
    ("[workflows.w]", ["[workflows.w]: model is missing"]),
    ("[workflows.w]\nmodel = 'fats'", ['[workflows.w] model: "fats": unknown model or group', '"fast"']),
    ("[workflows.'a b']\nmodel = 'fast'", ["[workflows.a b]: this name is not allowed"]),
    ("[workflows]\nw = 'fast'", ["[workflows.w]: this is a text, it must be a table"]),
    ("workflows = 1", ["[workflows]: must be tables"]),
    (
        "[routing]\ncontext_window_fallbacks = ['fast']",
        ["[routing] context_window_fallbacks: must be a table of lists", '{ chat = ["roomy"] }'],
    ),
    (
        "[routing.content_policy_fallbacks]\nfast = []",
        ["[routing] content_policy_fallbacks: must be a table of lists that are not empty"],
    ),
    (
        "[routing.content_policy_fallbacks]\nfats = ['fast']",
        ['[routing] content_policy_fallbacks fats: "fats": unknown model or group', 'did you mean "fast"?'],
    ),
    (
        "[routing.context_window_fallbacks]\nfast = ['lnog']\n[groups]\nlong = ['fast']",
        ['[routing] context_window_fallbacks fast: "lnog"', 'did you mean "long"?'],
    ),
    ("[routing]\nhedge_after_ms = 0", ["[routing] hedge_after_ms", "above 0"]),
    ("[routing]\nhedge_max_cost = -1", ["[routing] hedge_max_cost", "at least 0"]),
    ("[routing]\nstrategy = 'predicting'", ["[routing] strategy", 'one of "predictive", "weighted"']),
    ("[routing]\npredictive_usd_per_s = -1", ["[routing] predictive_usd_per_s", "at least 0"]),
    ("[routing]\nregions = ['eu', 'us', 'eu']", ['[routing] regions: "eu" is in it twice']),
    ("[routing]\nregions = 'eu'", ["[routing] regions", "a list"]),
    ("[routing]\nregion_eviction_ratio = 0", ["[routing] region_eviction_ratio", "above 0 and at most 1"]),
    (
        "[routing.context_window_fallbacks]\nfast = ['fast']",
        ["[routing] context_window_fallbacks fast: falls back to itself"],
    ),
    ("[routing]\ndefault = 'chta'\n[groups]\nchat = ['fast']", ["[routing] default", 'did you mean "chat"?']),
    # budgets
    ("[budgets]\nspend_ceiling = 5", ["[budgets]: each budget is a table of its own: write [[budgets]]"]),
    ("budgets = ['acme']", ["[[budgets]] #1: this is a text, it must be a table"]),
    ("[[budgets]]\ntenant = '*'", ["[[budgets]] #1: spend_ceiling is missing"]),
    ("[[budgets]]\ntennant = '*'\nspend_ceiling = 5", ["#1 tennant: unknown key", 'did you mean "tenant"?']),
    ("[[budgets]]\nspend_ceiling = -1", ["[[budgets]] #1 spend_ceiling: -1", "at least 0"]),
    (
        "[[budgets]]\ntenant = ''\nspend_ceiling = 5",
        ['[[budgets]] #1 tenant: ""', '"*" for each one by itself'],
    ),
    ("[[budgets]]\ntenant = 'a*'\nspend_ceiling = 5", ['[[budgets]] #1 tenant: "a*"', "1-64 of"]),
    ("[[budgets]]\nworkflow = 7\nspend_ceiling = 5", ["[[budgets]] #1 workflow: 7 is not allowed"]),
    ("[[budgets]]\nmodel = 'fats'\nspend_ceiling = 5", ['#1 model: "fats": unknown model', '"fast"?']),
    (
        "[[budgets]]\ngroup = 'chta'\nspend_ceiling = 5\n[groups]\nchat = ['fast']",
        ['[[budgets]] #1 group: "chta": unknown group', 'did you mean "chat"?'],
    ),
    ("[[budgets]]\ngroup = 'fast'\nspend_ceiling = 5", ['"fast" is a model: write model = "fast"']),
    (
        "[[budgets]]\nmodel = 'chat'\nspend_ceiling = 5\n[groups]\nchat = ['fast']",
        ['[[budgets]] #1 model: "chat" is a group: write group = "chat"'],
    ),
    (
        f"[[budgets]]\nmodel = 'b'\ngroup = 'chat'\nspend_ceiling = 5\n[groups]\nchat = ['fast']\n{OTHER}",
        ['[[budgets]] #1 model: "b" is not in the group chat', "in it are fast"],
    ),
    (
        "[[budgets]]\nspend_ceiling = 5\nspend_window = '1w'",
        ['[[budgets]] #1 spend_window: "1w" is not allowed'],
    ),
    ("[[budgets]]\nspend_ceiling = 5\nmax_budget = 6", ["#1 max_budget", "another name for spend_ceiling"]),
    ("[[budgets]]\nspend_ceiling = 5\nsoft_budget = 6", ["#1 soft_budget", "6 is above spend_ceiling, 5"]),
    ("[[budgets]]\nspend_ceiling = 5\ndowngrade_ratio = 70", ["#1 downgrade_ratio: 70", "at most 1"]),
    ("[[budgets]]\nspend_ceiling = 5\ncalendar_aligned = 1", ["#1 calendar_aligned: 1", "true or false"]),
    (
        "[[budgets]]\ntenant = '*'\nspend_ceiling = 5\n[[budgets]]\ntenant = '*'\nspend_ceiling = 6",
        ["[[budgets]] #2: [[budgets]] #1 counts the same calls over the same window: keep one"],
    ),
    # replies
    ("[reply]\ndefault = 'P:jobs'", ["[reply] default", "theo: are the router's own"]),
    ("[redis]\nprefix = 'x'\n[reply]\ndefault = 'x:dead'", ["[reply] default", "x: are the router's own"]),
    ("[reply]\nallowed = ['P:jobs:*']", ['[reply] allowed: "theo:jobs:*" can match nothing']),
    ("[reply]\nallowed = ['']", ["[reply] allowed", "1 to 1024 characters"]),
    ("[reply]\nttl_s = 0", ["[reply] ttl_s: 0", "at least 1"]),
    # addresses
    ("[redis]\nurl = 'localhost:6379'", ["[redis] url: not an address of Redis", "redis+sentinel://"]),
    (
        "[redis]\nurl = 'redis+cluster://h:7000'",
        ["[redis] prefix: on Redis Cluster it needs braces", '"{theo}"'],
    ),
    (
        "[redis]\nurl = 'redis+cluster://h:7000'\nprefix = '{x}'\n[reply]\ndefault = 'answers'",
        ["[reply] default: on Redis Cluster it needs the hash tag of redis.prefix, {x}"],
    ),
    ("[redis]\nurl = 'env:NOPE'", ["[redis] url: the environment variable NOPE is not set"]),
    ("[ledger]\nurl = 'ledger.db'", ["[ledger] url", '"sqlite:///PATH"', '"redis"']),
    ("[ledger]\nurl = 'sqlite://x.db'", ["[ledger] url"]),
    ("[ledger]\nurl = 'sqlite:///'", ["[ledger] url"]),
    ("[ledger]\nurl = 'sqlite:///:memory:'", ["[ledger] url"]),
    ("[ledger]\nurl = 'postgres://h/db'", ["[ledger] url"]),
    ("[telemetry]\nhttp = '9464'", ["[telemetry] http", "HOST:PORT"]),
    ("[telemetry]\nhttp = 9464", ["[telemetry] http: a number", "HOST:PORT"]),
    ("[telemetry]\nhttp = '127.0.0.1:70000'", ["[telemetry] http"]),
    ("[telemetry]\notlp_endpoint = 'collector:4318'", ["[telemetry] otlp_endpoint", "http:// or https://"]),
    ("[telemetry]\notlp_endpoint = false", ["[telemetry] otlp_endpoint: true or false is not allowed"]),
]


@pytest.mark.parametrize(("text", "fragments"), BAD_TABLES, ids=[text for text, _ in BAD_TABLES])
def test_a_bad_table_is_refused_with_table_key_and_what_is_allowed(text: str, fragments: list[str]) -> None:
    message = complaint(text)
    assert "1 problem\n" in message, "one cause, one line"
    for fragment in fragments:
        assert fragment in message


BAD_MODELS = [
    ("", ["[[models]]: there is none"]),
    ("[models]\nname = 'x'", ["[models]: each model is a table of its own: write [[models]]"]),
    ("models = ['fast']", ["[[models]] #1: this is a text, it must be a table"]),
    ("[[models]]\nprovider = 'scripted'", ["[[models]] #1: name is missing"]),
    ("[[models]]\nname = 'x'", ['[[models]] #1 "x": provider is missing']),
    ("[[models]]\nname = 'x'\nprovider = 'openai'", ['[[models]] #1 "x": model is missing']),
    ("[[models]]\nname = 'a b'\nprovider = 'scripted'", ['[[models]] #1 "a b" name', "1-64 of"]),
    ("[[models]]\nname = ''\nprovider = 'scripted'", ['[[models]] #1 "" name']),
    ("[[models]]\nname = 7\nprovider = 'scripted'", ["[[models]] #1 name: 7 is not allowed"]),
    (f"[[models]]\nname = '{'x' * 65}'\nprovider = 'scripted'", ["name: a text is not allowed"]),
    ("[[models]]\nname = 'x'\nprovider = 'opneai'\nmodel = 'm'", ['"x" provider: "opneai"', '"openai"']),
    (MODEL * 2, ['[[models]] #2 "fast" name: #1 has this name already']),
    (MODEL.replace("name", "nmae"), ["[[models]] #1 nmae: unknown key"]),
    (
        with_model("max_concurrency = 4"),
        ['[[models]] #1 "fast" max_concurrency: unknown key', '"concurrency"'],
    ),
    (with_model("rmp = 5"), ['[[models]] #1 "fast" rmp: unknown key', '"rpm"']),
    (with_model("rpm = 0"), ['"fast" rpm: 0', "at least 1"]),
    (with_model("concurrency = 0"), ['"fast" concurrency: 0', "at least 1 and at most 100000"]),
    (with_model("hidden_tokens = -1"), ['"fast" hidden_tokens: -1', "at least 0"]),
    (with_model("context_window = 1e5"), ['"fast" context_window: 100000', "a whole number"]),
    (with_model("input_cost_per_mtok = -1"), ['"fast" input_cost_per_mtok: -1', "at least 0"]),
    (with_model("routing = 3"), ['[[models]] #1 "fast" routing: this is a number']),
    (with_model("routing = { wieght = 3 }"), ['"fast" routing wieght: unknown key', '"weight"']),
    (with_model("routing = { weight = 'x' }"), ['"fast" routing weight: "x"', "a number, at least 0"]),
    (with_model("routing = { soft_budget = 1 }"), ['"fast" routing soft_budget', "needs a spend_ceiling"]),
    (with_model("api_key = 'sk-live-123'"), ['"fast" api_key: a literal key is refused', '"env:NAME"']),
    (with_model("api_key = ''"), ['"fast" api_key: a literal key is refused']),
    (with_model("api_key = 5"), ['"fast" api_key: a literal key is refused']),
    (with_model("api_key = 'env:NOPE'"), ['"fast" api_key: the environment variable NOPE is not set']),
    (with_model("api_key = 'env:EMPTY'"), ['"fast" api_key: env:EMPTY is empty']),
    (with_model("api_key = 'env:BROKEN'"), ['"fast" api_key: env:BROKEN holds something', "without blanks"]),
    (with_model("api_key = 'file:nope'"), ['"fast" api_key: /srv/router/nope cannot be read: No such file']),
    (with_model("base_url = 'api.openai.com/v1'"), ['"fast" base_url: must be an http:// or https:// URL']),
    (with_model("base_url = 'ftp://h/v1'"), ['"fast" base_url']),
    (with_model("base_url = 'https://u:sk-secret@h/v1'"), ['"fast" base_url: must hold no user']),
    (with_model("base_url = 'https://h:99999/v1'"), ['"fast" base_url: is no URL']),
    (with_model("base_url = 'https:///v1'"), ['"fast" base_url', "with a host"]),
    (with_model("base_url = 5"), ['"fast" base_url: must be a text']),
    (with_model("proxy = 'proxy:3128'"), ['"fast" proxy: must be an http://']),
    (with_model("ca_file = 'nope.pem'"), ['"fast" ca_file: /srv/router/nope.pem is no file']),
    (with_model("headers = 'x'"), ['"fast" headers: must be a table of texts']),
    (with_model("headers = { x = 1 }"), ['"fast" headers: must be a table of texts']),
    (with_model("headers = { 'a b' = 'x' }"), ['"fast" headers: "a b" is no header']),
    (with_model("headers = { Host = 'x' }"), ['"fast" headers: "Host" is no header that can be set']),
    (with_model('headers = { x = "sk-secret\\n" }'), ['"fast" headers: the value of x cannot be sent']),
    (with_model("headers = { x = 'env:NOPE' }"), ['"fast" headers: the environment variable NOPE']),
    (with_model("headers = { x = 'a', X = 'b' }"), ['"fast" headers: one header is given twice']),
    (with_model("query = ['x']"), ['"fast" query: must be a table of texts']),
    (with_model("script = 'hello'"), ['"fast" script: must be a list of tables']),
    (with_model("script = []"), ['"fast" script: must be a list of tables']),
    (with_model("script = [{ txet = 'x' }]"), ['"fast" script: #1 txet: unknown key', '"text"']),
    (with_model("script = [{}, { error = 'boom' }]"), ["#2 error", '"rate_limited"']),
    (with_model("script = [{ latency_ms = -1 }]"), ["#1 latency_ms: must be 0 or more"]),
    (with_model("script = [{ latency_ms = inf }]"), ["#1 latency_ms: must be 0 or more"]),
    (with_model("script_end = 'stop'"), ['"fast" script_end', '"cycle", "repeat_last"']),
    (
        "[[models]]\nname = 'x'\nprovider = 'local'\nscript = [{}]",
        ['"x" script: belongs to provider = "scripted"'],
    ),
]


@pytest.mark.parametrize(("model", "fragments"), BAD_MODELS, ids=[model for model, _ in BAD_MODELS])
def test_a_bad_model_is_refused_under_its_number_and_name(model: str, fragments: list[str]) -> None:
    message = complaint("", model=model)
    for fragment in fragments:
        assert fragment in message
    assert "sk-" not in message


def test_all_problems_are_told_at_once_each_on_a_line() -> None:
    message = complaint(
        "[ingress]\nlease_s = 0\ngruop = 'x'\n[routing]\ndefault = 'nope'\n[groups]\nchat = ['gone']",
        model=with_model("rpm = 0\napi_key = 'sk-live-123'"),
    )
    head, *lines = message.splitlines()
    assert head == "the configuration: 6 problems"
    assert sorted(line.split(":")[0].strip() for line in lines) == [
        '[[models]] #1 "fast" api_key',
        '[[models]] #1 "fast" rpm',
        "[groups] chat",
        "[ingress] gruop",
        "[ingress] lease_s",
        "[routing] default",
    ]


def test_a_model_that_is_wrong_in_another_way_is_not_also_unknown() -> None:
    message = complaint(
        "[groups]\nchat = ['fast']", model=with_model("rpm = 0").replace("scripted", "nobody")
    )
    assert "unknown model" not in message
    assert "2 problems" in message


def test_a_url_with_a_password_is_never_quoted() -> None:
    for url in ("redis://:s3cret@", "rediss://u:s3cret@h:99999/0", "redis://u:s3c/ret@h/0", "s3cret"):
        assert "s3c" not in complaint(f"[redis]\nurl = '{url}'")


def test_an_empty_file_with_one_model_has_the_defaults_of_the_contract() -> None:
    config = parse("")
    plain = structs.replace(Config(), models=config.models, warnings=config.warnings)
    assert config == structs.replace(
        plain, ledger=structs.replace(plain.ledger, url=FOLDER / "theo-ledger.db")
    )


def test_whole_numbers_stand_for_durations_too() -> None:
    assert parse("[ingress]\nlease_s = 15").ingress.lease_s == 15.0


def test_given_lanes_replace_the_default_ones_and_a_missing_default_lane_is_pointed_out() -> None:
    config = parse("[ingress]\nlanes = { vip = 9 }")
    assert config.ingress.lanes == {"vip": 9}
    assert any('no lane "default"' in one for one in config.warnings)
    assert not any("lane" in one for one in parse("").warnings)


class TestRouting:
    def test_a_models_own_keys_lie_over_the_global_ones(self) -> None:
        config = parse(
            "[routing]\nweight = 2\nspend_ceiling = 100\nspend_window = '1d'",
            model=with_model("routing = { spend_ceiling = 20, cache_enabled = false }"),
        )
        assert config.models[0].routing == structs.replace(
            config.routing, spend_ceiling=20.0, cache_enabled=False
        )
        assert config.routing.spend_ceiling == 100.0
        assert config.routing.spend_window == parse_window("1d")

    def test_a_key_set_to_its_default_still_overrides(self) -> None:
        config = parse("[routing]\nweight = 2", model=with_model("routing = { weight = 1 }"))
        assert config.models[0].routing.weight == 1.0

    def test_aliases_mean_the_same_and_lie_over_the_names_they_stand_for(self) -> None:
        config = parse(
            "[routing]\nmax_budget = 100\nbudget_duration = '30d'",
            model=with_model("routing = { spend_ceiling = 5, max_budget = 5.0 }"),
        )
        assert config.routing.spend_ceiling == 100.0
        assert config.routing.spend_window == parse_window("30d")
        assert config.models[0].routing.spend_ceiling == 5.0

    @pytest.mark.parametrize(
        ("globally", "own", "ratio"),
        [
            ("soft_budget = 50\nspend_ceiling = 100", "", 0.5),
            ("soft_budget = 80\nspend_ceiling = 100\nwarning_ratio = 0.8", "", 0.8),
            ("spend_ceiling = 100", "soft_budget = 25", 0.25),
            ("spend_ceiling = 100", "soft_budget = 1, max_budget = 4", 0.25),
            ("soft_budget = 50\nspend_ceiling = 100", "spend_ceiling = 10", 0.5),
            ("", "soft_budget = 0, spend_ceiling = 0", 1.0),
        ],
    )
    def test_a_soft_budget_is_a_part_of_the_ceiling_that_holds(
        self, globally: str, own: str, ratio: float
    ) -> None:
        config = parse(f"[routing]\n{globally}", model=with_model(f"routing = {{ {own} }}"))
        assert config.models[0].routing.warning_ratio == pytest.approx(ratio)

    def test_a_ceiling_of_zero_is_not_the_same_as_none(self) -> None:
        assert parse("[routing]\nspend_ceiling = 0").models[0].routing.spend_ceiling == 0.0
        assert parse("").models[0].routing.spend_ceiling is None

    @pytest.mark.parametrize("key", ["default = 'fast'", "max_wait_s = 1", "max_attempts = 1"])
    def test_a_key_about_jobs_has_no_effect_in_a_model_and_that_is_said(self, key: str) -> None:
        config = parse("", model=with_model(f"routing = {{ {key} }}"))
        assert config.models[0].routing == config.routing
        assert any('"fast" routing ' in one and "no effect" in one for one in config.warnings)

    def test_labels_of_regions_that_do_not_meet_are_pointed_out(self) -> None:
        config = parse(
            "[routing]\nregions = ['eu', 'mars']", model=with_model("region = 'eu'\n") + OTHER_MODEL
        )
        told = "\n".join(config.warnings)
        assert '[routing] regions: no model has region = "mars"' in told
        assert '[[models]] "other": has no region, so [routing] regions puts it last' in told
        assert '"fast": has' not in told
        assert "puts it last" not in "\n".join(parse("", model=OTHER_MODEL).warnings)


class TestModels:
    @pytest.mark.parametrize(
        ("provider", "base_url"),
        [
            ("openai", "https://api.openai.com/v1"),
            ("openai_responses", "https://api.openai.com/v1"),
            ("anthropic", "https://api.anthropic.com/v1"),
            ("gemini", "https://generativelanguage.googleapis.com/v1beta"),
            ("local", None),
            ("scripted", None),
        ],
    )
    def test_each_provider_has_its_own_base_url(self, provider: str, base_url: str | None) -> None:
        text = f"[[models]]\nname = 'x'\nmodel = 'm'\nprovider = '{provider}'"
        assert parse("", model=text).models[0].base_url == base_url

    def test_a_base_url_loses_its_last_slash_only(self) -> None:
        model = parse("", model=with_model("base_url = 'http://[::1]:8080/v1/'")).models[0]
        assert model.base_url == "http://[::1]:8080/v1"

    def test_a_key_comes_from_the_environment_and_is_held_as_a_secret(self) -> None:
        config = parse("", model=with_model("api_key = 'env:KEY'"), env={"KEY": " sk-secret-value\n"})
        assert config.models[0].api_key == Secret("sk-secret-value")
        assert "sk-secret" not in repr(config)

    def test_headers_query_and_proxy_take_references_and_are_not_shown(self) -> None:
        lines = "headers = { a = 'env:KEY', b = 'x y' }\nquery = { k = 'env:KEY' }\nproxy = 'http://u:pw@h:1'"
        config = parse("", model=with_model(lines))
        model = config.models[0]
        assert model.headers == {"a": "sk-secret-value", "b": "x y"}
        assert model.query == {"k": "sk-secret-value"}
        assert model.proxy == "http://u:pw@h:1"
        assert "sk-secret" not in repr(config)
        assert "u:pw" not in repr(config)

    def test_a_credential_written_into_a_header_is_pointed_out_without_its_value(self) -> None:
        lines = "headers = { Authorization = 'Bearer sk-secret' }"
        (warning,) = [one for one in parse("", model=with_model(lines)).warnings if "headers" in one]
        assert '[[models]] #1 "fast" headers.Authorization' in warning
        assert "sk-secret" not in warning

    @pytest.mark.parametrize(
        ("base_url", "warned"),
        [("http://h/v1", True), ("https://h/v1", False), ("http://127.0.0.1:1/v1", False)],
    )
    def test_a_key_over_plain_http_is_pointed_out_unless_it_stays_here(
        self, base_url: str, warned: bool
    ) -> None:
        lines = f"base_url = '{base_url}'\napi_key = 'env:KEY'"
        warnings = parse("", model=with_model(lines)).warnings
        assert any("unencrypted" in one for one in warnings) is warned

    def test_a_script_becomes_fates(self) -> None:
        lines = "script = [{ text = 'hi', latency_ms = 20 }, { hang = true }]\nscript_end = 'cycle'"
        model = parse("", model=with_model(lines)).models[0]
        assert model.script == (Fate(text="hi", latency_ms=20.0), Fate(hang=True))
        assert model.script_end == "cycle"

    def test_a_model_in_this_process_needs_no_name_of_a_provider(self) -> None:
        assert parse("").models[0].model == "fast"


class TestBudgets:
    def test_keep_their_order_their_selectors_and_the_names_of_others(self) -> None:
        text = (
            "[[budgets]]\ntenant = '*'\nmax_budget = 5\nbudget_duration = '1d'\nsoft_budget = 4\n"
            "[[budgets]]\nspend_ceiling = 0\ncalendar_aligned = false\nspend_window = '30d'\ndowngrade_ratio = 0.5\n"
        )
        first, second = parse(text).budgets
        assert (first.tenant, first.spend_ceiling, str(first.spend_window)) == ("*", 5.0, "1d")
        assert (first.warning_ratio, first.calendar_aligned, first.downgrade_ratio) == (0.8, True, None)
        assert (second.tenant, second.model, second.group, second.workflow) == (None,) * 4
        assert (second.calendar_aligned, second.downgrade_ratio) == (False, 0.5)

    def test_may_count_the_same_calls_over_different_windows(self) -> None:
        same = "[[budgets]]\ntenant = 'a'\nspend_ceiling = 5\nspend_window = "
        assert len(parse(f"{same}'1d'\n{same}'1mo'\n{same}'1d'\ncalendar_aligned = false").budgets) == 3

    def test_of_a_wrong_table_do_not_shift_the_numbers_of_the_others(self) -> None:
        text = "[[budgets]]\n[[budgets]]\nspend_ceiling = 1\nmodel = 'nope'"
        assert "[[budgets]] #2 model" in complaint(text)


class TestAddresses:
    def test_a_relative_ledger_starts_from_the_files_folder(self) -> None:
        assert parse("[ledger]\nurl = 'sqlite:///./a/../b.db'").ledger.url == FOLDER / "b.db"

    def test_an_absolute_ledger_has_four_slashes(self) -> None:
        assert parse("[ledger]\nurl = 'sqlite:////var/b.db'").ledger.url == Path("/var/b.db")

    def test_the_ledger_may_be_in_redis(self) -> None:
        assert parse("[ledger]\nurl = 'redis'").ledger.url == "redis"

    def test_reply_streams_follow_the_prefix(self) -> None:
        text = "[redis]\nprefix = '{app}'\n[reply]\nallowed = ['P:reply:*', 'mine:*']"
        reply = parse(text).reply
        assert reply.default == "{app}:replies"
        assert reply.allowed == ("{app}:reply:*", "mine:*")

    def test_redis_comes_from_flag_before_environment_before_file(self) -> None:
        text, over = "[redis]\nurl = 'redis://file:1/0'", Overrides(redis_url="redis://flag:3/0")
        env = {"THEO_REDIS_URL": "redis://env:2/0"}
        assert parse(text, env={}).redis.url == Secret("redis://file:1/0")
        assert parse(text, env=env).redis.url == Secret("redis://env:2/0")
        assert parse(text, env=env, overrides=over).redis.url == Secret("redis://flag:3/0")

    def test_an_overridden_address_is_not_looked_up(self) -> None:
        config = parse("[redis]\nurl = 'env:NOPE'", overrides=Overrides(redis_url="env:URL"))
        assert config.redis.url == Secret(ENV["URL"])

    def test_a_bad_address_from_the_environment_is_blamed_on_it(self) -> None:
        assert "THEO_REDIS_URL: not an address" in complaint("", env={"THEO_REDIS_URL": "localhost"})

    def test_no_address_at_all_is_no_error_here(self) -> None:
        assert parse("", env={"THEO_REDIS_URL": ""}).redis.url is None


class TestDoubts:
    def test_a_drain_shorter_than_a_call_is_pointed_out(self) -> None:
        config = parse("[ingress]\ndrain_s = 150", model=with_model("routing = { timeout_s = 200 }"))
        assert any("drain_s: is below timeout_s, 200" in one for one in config.warnings)
        assert not any("drain_s" in one for one in parse("[ingress]\ndrain_s = 120").warnings)

    def test_a_missing_default_is_pointed_out(self) -> None:
        assert any("[routing] default" in one for one in parse("").warnings)
        assert parse("[routing]\ndefault = 'fast'").warnings == ()


class TestCommandsThatOnlyTalkToRedis:
    def test_need_no_model(self) -> None:
        assert parse("", model="", serving=False).models == ()

    def test_need_no_credential_of_a_model(self) -> None:
        lines = "api_key = 'env:NOPE'\nheaders = { a = 'env:NOPE', b = 'x' }\nproxy = 'env:NOPE'\nca_file = 'nope'"
        model = parse("", model=with_model(lines), env={}, serving=False).models[0]
        assert (model.api_key, model.headers, model.proxy) == (None, {"b": "x"}, None)

    def test_still_refuse_what_is_wrong(self) -> None:
        with pytest.raises(ConfigError, match="a literal key is refused"):
            parse("", model=with_model("api_key = 'sk'"), serving=False)
