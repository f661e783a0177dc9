"""Learns how each model serves each workflow, and which one to ask next: Thompson sampling over a linear model. Pure.

Per workflow and model: the chance of an answer (a Beta distribution), the latency of answers as a line over the
prompt's size (Bayesian linear regression, as in Agrawal and Goyal, Thompson Sampling for Contextual Bandits with
Linear Payoffs, ICML 2013), and the tokens that the answer usually has, which the price turns into money. Evidence
fades with time (discounted Thompson sampling, Raj and Kalyani, 2017): a model that was left is tried again, and one
that has changed is found out. A choice draws one plausible world from what is known and takes the best model in it, so
that what is uncertain is tried as often as it may turn out best.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

HALF_LIFE_S = 300.0  # after so long evidence counts half
WORKFLOWS = 64  # whose evidence is kept; those that were asked longest ago are forgotten
_ANSWERS, _FAILURES = 2.0, 0.1  # calls that a model nobody knows is taken to have had
_RIDGE = 0.5  # and the weight, in calls, of what is taken for granted of its latency
_LATENCY_S, _PER_KB_S, _TOKENS, _TOKENS_PER_BYTE = 1.0, 0.05, 300.0, 0.25
_NOISE = 0.5  # of a latency, before it is known how much it varies
_NEWEST = 0.1  # the least weight of the newest call in a moving average
_LEAST_S, _LEAST_CHANCE = 0.01, 0.01

Cost = Callable[[str, int, int], float]
"""What a call costs in USD: of this model, with so many prompt and completion tokens."""


class Dice(Protocol):
    """What is needed of `random.Random`."""

    def gauss(self, mu: float, sigma: float) -> float: ...

    def betavariate(self, alpha: float, beta: float) -> float: ...


class Seen(Struct, frozen=True, kw_only=True):
    """How one call ended. `cost_usd` is what a failure was charged; answers are priced by their tokens."""

    size: int  # bytes of the job
    seconds: float
    answered: bool
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0


class Estimate(Struct, frozen=True, kw_only=True):
    """What is expected of a call now."""

    success: float
    latency_s: float
    cost_usd: float
    calls: float  # that the estimate rests on, faded ones counted in part


class Arm:
    """What is known of one model in one workflow."""

    __slots__ = (
        "a00", "a01", "a11", "answers", "at", "b0", "b1", "failed_s", "failed_usd", "failures", "prior", "squares",
        "tokens", "tokens_per_byte",
    )  # fmt: skip

    def __init__(self, now: float, like: Arm | None = None) -> None:
        """`like` is what is known of the model elsewhere: a beginning, which this workflow's own calls outweigh."""
        self.at = now
        self.answers = self.failures = 0.0
        self.a00 = self.a01 = self.a11 = self.b0 = self.b1 = self.squares = 0.0
        self.prior = (_LATENCY_S, _PER_KB_S) if like is None else like.line()
        self.tokens: float = _TOKENS if like is None else like.tokens
        self.tokens_per_byte: float = _TOKENS_PER_BYTE if like is None else like.tokens_per_byte
        self.failed_s = self.failed_usd = 0.0

    def fade(self, now: float) -> None:
        """Bring the evidence to `now`, to the second: it is asked for every call."""
        passed_s = now - self.at
        if passed_s < 1:
            return
        left = 0.5 ** (passed_s / HALF_LIFE_S)
        self.at = now
        self.answers *= left
        self.failures *= left
        self.squares *= left
        self.a00, self.a01, self.a11 = self.a00 * left, self.a01 * left, self.a11 * left
        self.b0, self.b1 = self.b0 * left, self.b1 * left

    def learn(self, seen: Seen, now: float) -> None:
        self.fade(now)
        if not seen.answered:
            self.failures += 1
            share = max(_NEWEST, 1 / self.failures)
            self.failed_s += share * (seen.seconds - self.failed_s)
            self.failed_usd += share * (seen.cost_usd - self.failed_usd)
            return
        kb, seconds = seen.size / 1_000, seen.seconds
        self.squares += (seconds - self.latency(kb)[0]) ** 2
        self.answers += 1
        self.a00, self.a01, self.a11 = self.a00 + 1, self.a01 + kb, self.a11 + kb * kb
        self.b0, self.b1 = self.b0 + seconds, self.b1 + seconds * kb
        share = max(_NEWEST, 1 / (self.answers + 1))
        self.tokens += share * (seen.completion_tokens - self.tokens)
        self.tokens_per_byte += share * (seen.prompt_tokens / max(1, seen.size) - self.tokens_per_byte)

    def line(self) -> tuple[float, float]:
        """Seconds of a call, and more for each 1,000 bytes."""
        a00, a01, a11 = self.a00 + _RIDGE, self.a01, self.a11 + _RIDGE
        base_s, per_kb_s = self.prior
        b0, b1 = self.b0 + _RIDGE * base_s, self.b1 + _RIDGE * per_kb_s
        determinant = a00 * a11 - a01 * a01
        return (a11 * b0 - a01 * b1) / determinant, (a00 * b1 - a01 * b0) / determinant

    def latency(self, kb: float) -> tuple[float, float]:
        """The mean latency of a prompt of so many kB, and how uncertain it is, in seconds."""
        base_s, per_kb_s = self.line()
        mean = max(_LEAST_S, base_s + per_kb_s * kb)
        a00, a01, a11 = self.a00 + _RIDGE, self.a01, self.a11 + _RIDGE
        spread = (a11 - 2 * a01 * kb + a00 * kb * kb) / (a00 * a11 - a01 * a01)
        noise = _NOISE * mean
        return mean, math.sqrt((self.squares + noise * noise) / (self.answers + 1) * max(0.0, spread))


class Learner:
    """Of one process: learning takes a few dozen calls, and what must be shared at once (circuits, budgets) is."""

    def __init__(self, dice: Dice, *, cost: Cost, usd_per_s: float) -> None:
        """`usd_per_s` is what a second of latency is worth."""
        self._dice, self._cost, self._usd_per_s = dice, cost, usd_per_s
        self._all: dict[str, Arm] = {}  # by model, of all workflows
        self._workflows: OrderedDict[str, dict[str, Arm]] = OrderedDict()

    def choose(self, models: Sequence[str], *, workflow: str, size: int, now: float) -> str:
        """The model with the lowest loss in one plausible world. `models` is not empty; `now` is monotonic seconds."""
        arms = self._arms(workflow)
        best, lowest = models[0], math.inf
        for model in models:
            loss = self._drawn_loss(model, self._arm(arms, model, now), size)
            if loss < lowest:
                best, lowest = model, loss
        return best

    def learn(self, model: str, workflow: str, seen: Seen, now: float) -> None:
        """Take in how a call ended."""
        self._arm(self._arms(workflow), model, now).learn(seen, now)
        self._all[model].learn(seen, now)

    def forgive(self, model: str) -> None:
        """Its circuit lets a probe through: what failed before it opened says nothing any more."""
        for arm in (self._all.get(model), *(arms.get(model) for arms in self._workflows.values())):
            if arm is not None:
                arm.failures = 0.0

    def explain(self, model: str, *, size: int, now: float) -> dict[str, Estimate]:
        """What is expected of a call, by workflow; `*` is all of them. Those asked last come first."""
        arms = {"*": self._all.get(model)}
        arms |= {workflow: arms_of.get(model) for workflow, arms_of in reversed(self._workflows.items())}
        return {name: self._estimate(model, arm, size, now) for name, arm in arms.items() if arm is not None}

    def _arms(self, workflow: str) -> dict[str, Arm]:
        arms = self._workflows.get(workflow)
        if arms is None:
            arms = self._workflows[workflow] = {}
            if len(self._workflows) > WORKFLOWS:
                self._workflows.popitem(last=False)
        else:
            self._workflows.move_to_end(workflow)
        return arms

    def _arm(self, arms: dict[str, Arm], model: str, now: float) -> Arm:
        """As it has faded by now."""
        arm = arms.get(model)
        if arm is None:
            known = self._all.get(model)
            if known is None:
                known = self._all[model] = Arm(now)
            arm = arms[model] = Arm(now, known)
        arm.fade(now)
        return arm

    def _drawn_loss(self, model: str, arm: Arm, size: int) -> float:
        mean, doubt = arm.latency(size / 1_000)
        seconds = max(_LEAST_S, self._dice.gauss(mean, doubt))
        chance = self._dice.betavariate(_ANSWERS + arm.answers, _FAILURES + arm.failures)
        return self._loss(model, arm, size, seconds=seconds, chance=chance)

    def _loss(self, model: str, arm: Arm, size: int, *, seconds: float, chance: float) -> float:
        """USD until an answer is there, if the model is asked again and again: failures take time and money, too."""
        chance = max(_LEAST_CHANCE, chance)
        answer = seconds * self._usd_per_s + self._price(model, arm, size)
        failure = arm.failed_s * self._usd_per_s + arm.failed_usd
        return answer + (1 - chance) / chance * failure

    def _price(self, model: str, arm: Arm, size: int) -> float:
        return self._cost(model, round(arm.tokens_per_byte * size), round(arm.tokens))

    def _estimate(self, model: str, arm: Arm, size: int, now: float) -> Estimate:
        arm.fade(now)
        calls = arm.answers + arm.failures
        return Estimate(
            success=(_ANSWERS + arm.answers) / (_ANSWERS + _FAILURES + calls),
            latency_s=arm.latency(size / 1_000)[0],
            cost_usd=self._price(model, arm, size),
            calls=calls,
        )
