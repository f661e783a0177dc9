"""Who is asked after a refusal."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from theo_daemon.config import Config, ModelConfig, RoutingConfig
from theo_daemon.fallbacks import Detour, Fallbacks

TOO_LONG, FILTERED = "context_length_exceeded", "content_filtered"
WINDOWS = {"a": 8, "b": 16, "c": None, "large": 100, "larger": 200, "small": 4, "safe": None}


def fallbacks(
    context: Mapping[str, tuple[str, ...]] | None = None, content: Mapping[str, tuple[str, ...]] | None = None
) -> Fallbacks:
    models = tuple(
        ModelConfig(name=name, provider="scripted", model=name, context_window=window)
        for name, window in WINDOWS.items()
    )
    routing = RoutingConfig(
        context_window_fallbacks=dict(context or {}), content_policy_fallbacks=dict(content or {})
    )
    groups = {"chat": ("a", "b", "c"), "long": ("large", "larger")}
    return Fallbacks(Config(models=models, groups=groups, routing=routing))


@pytest.mark.parametrize(
    ("context", "candidates", "refused", "gone", "way"),
    [
        # nothing is configured: roomier models of the route, as far as windows are known
        ({}, "abc", "a", "a", Detour(("b",), in_order=False)),
        ({}, "abc", "b", "b", None),
        ({}, "abc", "ab", "ab", None),
        ({}, "abc", "c", "c", None),
        # the table, for what was asked or for who refused
        ({"chat": ("large",)}, "abc", "b", "b", Detour(("large",), in_order=True)),
        ({"b": ("larger", "large")}, "abc", "b", "b", Detour(("larger", "large"), in_order=True)),
        ({"chat": ("long", "large")}, "c", "c", "c", Detour(("large", "larger"), in_order=True)),
        ({"chat": ("large",)}, "abc", "a", "a", Detour(("b",), in_order=False)),
        ({"other": ("large",)}, "b", "b", "b", None),
        # never to one that is known to be no roomier, or is gone
        ({"chat": ("small", "b", "large")}, "b", "b", "b", Detour(("large",), in_order=True)),
        ({"chat": ("small", "a")}, "b", "b", "b", None),
        ({"chat": ("safe",)}, "b", "b", "b", Detour(("safe",), in_order=True)),
    ],
)
def test_after_a_job_was_too_long(
    context: dict[str, tuple[str, ...]], candidates: str, refused: str, gone: str, way: Detour | None
) -> None:
    found = fallbacks(context).after(
        TOO_LONG, "chat", candidates=list(candidates), refused=list(refused), gone=set(gone)
    )
    assert found == way


def test_a_fallback_may_have_a_fallback_of_its_own() -> None:
    chain = fallbacks({"chat": ("large",), "large": ("larger",)})
    first = chain.after(TOO_LONG, "chat", candidates=["b"], refused=["b"], gone={"b"})
    assert first == Detour(("large",), in_order=True)
    second = chain.after(TOO_LONG, "chat", candidates=["large"], refused=["b", "large"], gone={"b", "large"})
    assert second == Detour(("larger",), in_order=True)
    gone = {"b", "large", "larger"}
    assert chain.after(TOO_LONG, "chat", candidates=["larger"], refused=gone, gone=gone) is None


def test_each_refusal_has_a_table_of_its_own_and_others_have_none() -> None:
    both = fallbacks({"chat": ("large",)}, {"chat": ("safe", "small")})
    way = both.after(FILTERED, "chat", candidates=["a", "b"], refused=["a"], gone={"a"})
    assert way == Detour(("safe", "small"), in_order=True)  # windows make no difference here
    for code in ("invalid_request", "budget_exceeded", "provider_unavailable"):
        assert both.after(code, "chat", candidates=["a", "b"], refused=["a"], gone={"a"}) is None
