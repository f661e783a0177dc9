"""What is learnt of models, and who is chosen for it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from theo_daemon.learner import HALF_LIFE_S, WORKFLOWS, Learner, Seen

PRICES = {"cheap": (1e-6, 2e-6), "dear": (10e-6, 20e-6)}  # USD per token
MODELS = ("cheap", "dear")


def cost(model: str, prompt_tokens: int, completion_tokens: int) -> float:
    asked, answered = PRICES.get(model, (0.0, 0.0))
    return prompt_tokens * asked + completion_tokens * answered


def learner(*, usd_per_s: float = 0.001, seed: int = 1) -> Learner:
    return Learner(random.Random(seed), cost=cost, usd_per_s=usd_per_s)


def answered(seconds: float, *, size: int = 400, tokens: int = 300) -> Seen:
    return Seen(size=size, seconds=seconds, answered=True, prompt_tokens=size // 4, completion_tokens=tokens)


def failed(seconds: float = 0.1, cost_usd: float = 0.0) -> Seen:
    return Seen(size=400, seconds=seconds, answered=False, cost_usd=cost_usd)


def live(
    one: Learner, fate: Callable[[str, int], Seen], *, calls: int = 400, start: float = 0.0, every_s: float = 1.0,
    workflow: str = "w", size: int = 400, models: tuple[str, ...] = ("a", "b"),
) -> Counter[str]:  # fmt: skip
    """Jobs one after another, each answered or failed as `fate` says; who was chosen in the last half of them."""
    chosen: list[str] = []
    for number in range(calls):
        now = start + number * every_s
        model = one.choose(models, workflow=workflow, size=size, now=now)
        chosen.append(model)
        one.learn(model, workflow, fate(model, number), now)
    return Counter(chosen[calls // 2 :])


def test_the_faster_of_two_alike_is_found_and_kept_to() -> None:
    assert live(learner(), lambda model, _: answered(1.0 if model == "a" else 2.0))["a"] > 180


def test_the_cheaper_is_found_where_latency_is_worth_little_and_the_faster_where_it_is_worth_much() -> None:
    def fate(model: str, _: int) -> Seen:
        return answered(2.0 if model == "cheap" else 1.0)

    assert live(learner(usd_per_s=0.0), fate, models=MODELS)["cheap"] == 200
    assert live(learner(usd_per_s=1.0), fate, models=MODELS)["dear"] > 180


@pytest.mark.parametrize("failure", [failed(20.0), failed(1.0, cost_usd=0.05)], ids=["time", "money"])
def test_failures_are_held_against_a_model_by_the_time_and_money_that_they_take(failure: Seen) -> None:
    luck = random.Random(3)

    def fate(model: str, _: int) -> Seen:
        return failure if model == "a" and luck.random() < 0.2 else answered(1.0 if model == "a" else 1.5)

    assert live(learner(), fate)["b"] > 150


def test_long_prompts_may_have_another_favourite_than_short_ones() -> None:
    one = learner()
    luck = random.Random(5)

    def seconds(model: str, size: int) -> float:
        return 1.0 + size / 1_000 * 0.5 if model == "a" else 3.0

    for number in range(600):
        size = luck.choice([200, 10_000])
        model = one.choose(("a", "b"), workflow="w", size=size, now=number)
        one.learn(model, "w", answered(seconds(model, size), size=size), number)
    assert Counter(one.choose(("a", "b"), workflow="w", size=200, now=600) for _ in range(50))["a"] > 40
    assert Counter(one.choose(("a", "b"), workflow="w", size=10_000, now=600) for _ in range(50))["b"] > 40


def test_a_model_that_becomes_slow_is_left_and_one_that_becomes_quick_is_found_again() -> None:
    def fate(model: str, number: int) -> Seen:
        quick = "a" if number < 300 or number >= 900 else "b"
        return answered(1.0 if model == quick else 4.0)

    one = learner()
    early = live(one, fate, calls=300)
    middle = live(one, lambda model, n: fate(model, n + 300), calls=600, start=300)
    late = live(one, lambda model, n: fate(model, n + 900), calls=2_400, start=900)
    assert (early["a"] > 140, middle["b"] > 250, late["a"] > 900) == (True, True, True)


def test_workflows_are_learnt_apart_and_a_new_one_begins_with_what_all_know() -> None:
    one = learner()
    live(one, lambda model, _: answered(1.0 if model == "a" else 3.0), workflow="short")
    live(one, lambda model, _: answered(3.0 if model == "a" else 1.0), workflow="long")
    assert Counter(one.choose(("a", "b"), workflow="short", size=400, now=400) for _ in range(50))["a"] > 45
    assert Counter(one.choose(("a", "b"), workflow="long", size=400, now=400) for _ in range(50))["b"] > 45
    known = learner()
    live(known, lambda model, _: answered(1.0 if model == "a" else 30.0), workflow="short")
    first = known.choose(("a", "b"), workflow="never seen", size=400, now=400)
    assert first == "a"


def test_a_circuit_s_probe_is_not_refused_for_what_failed_before() -> None:
    one = learner()
    for number in range(50):
        one.learn("a", "w", answered(1.0), number)
        one.learn("b", "w", answered(2.0), number)
    for number in range(50, 60):
        one.learn("a", "w", failed(10.0), number)
    assert one.explain("a", size=400, now=60)["w"].success < 0.9
    one.forgive("a")
    assert one.explain("a", size=400, now=60)["w"].success > 0.99
    assert one.choose(("a", "b"), workflow="w", size=400, now=60) == "a"


def test_what_is_kept_is_bounded_and_the_workflow_asked_longest_ago_is_forgotten_first() -> None:
    one = learner()
    one.learn("a", "first", answered(1.0), 0)
    for number in range(WORKFLOWS - 1):
        one.learn("a", f"w{number}", answered(1.0), 1)
    one.learn("a", "first", answered(1.0), 2)
    one.learn("a", "one too many", answered(1.0), 3)
    names = list(one.explain("a", size=400, now=3))
    assert len(names) == WORKFLOWS + 1
    assert names[:3] == ["*", "one too many", "first"]
    assert "w0" not in names


def test_an_estimate_says_what_is_expected_and_what_it_rests_on() -> None:
    one = learner()
    for number in range(100):
        size = 200 if number % 2 else 8_000
        one.learn("dear", "w", answered(1.0 + size * 0.0001, size=size), 0)
    told = one.explain("dear", size=4_000, now=0)["w"]
    assert told.calls == 100
    assert told.latency_s == pytest.approx(1.4, rel=0.02)
    assert told.success == pytest.approx(1.0, abs=0.01)
    assert told.cost_usd == pytest.approx(cost("dear", 1_000, 300), rel=0.02)
    faded = one.explain("dear", size=4_000, now=HALF_LIFE_S)["w"]
    assert faded.calls == pytest.approx(50)
    assert one.explain("never asked", size=1, now=0) == {}


def test_the_same_seed_makes_the_same_choices() -> None:
    def fate(model: str, _: int) -> Seen:
        return answered(1.0)

    assert live(learner(seed=4), fate) == live(learner(seed=4), fate)
