"""Names of budgets: unambiguous as rows, readable as words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_daemon.budget_names import KEYS, in_words, scope_name, selectors_of

NAMES = st.text("aZ9._:-", min_size=1, max_size=4)
SELECTORS = st.dictionaries(st.sampled_from(KEYS), NAMES | st.just("*"))


@pytest.mark.parametrize(
    ("selectors", "window", "name"),
    [
        ({}, "1mo", "all@1mo"),
        ({"tenant": "acme"}, "total", "tenant=acme@total"),
        ({"model": "fast", "tenant": "acme"}, "1d", "tenant=acme,model=fast@1d"),
        ({"tenant": ""}, "1h", "tenant=@1h"),
        ({"tenant": "*"}, "~1d", "tenant=*@~1d"),
    ],
)
def test_a_name_tells_selectors_and_window(selectors: dict[str, str], window: str, name: str) -> None:
    assert scope_name(selectors, window) == name
    assert selectors_of(name) == selectors


@given(SELECTORS, SELECTORS)
def test_no_names_of_a_job_lead_into_another_budget(one: dict[str, str], other: dict[str, str]) -> None:
    assert (scope_name(one, "1d") == scope_name(other, "1d")) is (one == other)
    assert selectors_of(scope_name(one, "1d")) == one


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model:fast", "the budget of model fast"),
        ("model:fast@1d", "the budget of model fast"),
        ("tenant=acme@1d", "the budget of tenant acme"),
        ("tenant=acme,model=fast@total", "the budget of tenant acme and model fast"),
        ("tenant=@1d", "the budget of jobs without a tenant"),
        ("tenant=*,workflow=sum@1d", "the budget of each tenant and workflow sum"),
        ("all@1mo", "the budget of all jobs"),
    ],
)
def test_a_budget_is_put_into_words(name: str, words: str) -> None:
    assert in_words(name) == words
