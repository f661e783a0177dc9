"""Whatever a file holds, the answer is a configuration or one ConfigError that quotes no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from theo_daemon.config import Config, ModelConfig, RoutingConfig
from theo_daemon.config_parse import parse_config
from theo_workers.errors import ConfigError

KEYS = sorted(
    {key for table in (Config, ModelConfig, RoutingConfig) for key in table.__struct_fields__}
    | {
        "url",
        "prefix",
        "lanes",
        "allowed",
        "default",
        "http",
        "max_len",
        "text",
        "error",
        "soft_budget",
        "chat",
        "",
    }
)
CANARY = "sk-canary"
SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.text(max_size=20),
    st.sampled_from(
        [CANARY * 3, "env:KEY", "file:x", "fast", "scripted", "openai", "P:*", "1d", "sqlite:///x"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)
TABLES = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)
MODELS = st.lists(
    st.builds(lambda more: {"name": "fast", "provider": "scripted", **more}, TABLES) | TABLES, max_size=2
)


@given(
    raw=st.dictionaries(st.sampled_from(KEYS), VALUES | TABLES, max_size=6),
    models=MODELS,
    serving=st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_any_tables_give_a_configuration_or_a_config_error(
    raw: dict[str, Any], models: list[dict[str, Any]], serving: bool
) -> None:
    try:
        config = parse_config(
            {**raw, "models": models}, folder=Path("/srv"), env={"KEY": CANARY}, serving=serving
        )
    except ConfigError as error:
        assert CANARY not in str(error)  # noqa: PT017  # both ways out are allowed
    else:
        assert CANARY not in repr(config.models)
        assert all(CANARY not in warning for warning in config.warnings)
