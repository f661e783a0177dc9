"""Can this model take this job at all? Its context window against the prompt and what the answer may need. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from theo_daemon.config import CAP_UNDER_CEILINGS, ModelConfig
from theo_daemon.job import Job
from theo_workers.errors import ContextLengthExceeded
from theo_workers.prices import Price, output_for

# More than any frame, tool instruction or hidden prompt of a provider adds to a job's bytes.
SLACK_TOKENS = 3_072
CERTAIN = {"tokenizer": 1.0, "formula": 0.85, "characters": 0.5}
"""The share of a count, by its source, that the provider will certainly count as well."""

CALLS_UNDER_CEILINGS = 4  # fit under any ceiling at once, if nothing caps them but we
LEAST_CAP = 16  # tokens: below this an answer is none, and the ceiling forbids it

_APART = ("gemini",)  # a window for what goes in, another for what comes out
_CUT = ("local",)  # an answer that reaches the end of the window ends there; nothing is refused
_NAMED = 4


class Misfit(Struct, frozen=True, gc=False):
    """A model whose window does not hold the job: `prompt` tokens (`exact` or nearly) and `answer` at most."""

    model: str
    window: int
    prompt: int
    answer: int
    exact: bool


def output_cap(job: Job, config: ModelConfig) -> int | None:
    """The most tokens that the answer may have: the job's own limit, else the model's."""
    asked = asked_for(job)
    if asked is not None:
        return asked if config.max_output_tokens is None else min(asked, config.max_output_tokens)
    return config.max_output_tokens


def cap_under_a_ceiling(config: ModelConfig, price: Price, ceiling_nano: int | None) -> int:
    """What an answer is capped at where money is counted and neither job nor model caps it, in tokens.

    `ceiling_nano` is the lowest that others draw on, too. No call holds more than a share of it for its answer:
    a low ceiling would else be held by one call at a time, or be too low for any.
    """
    cap = CAP_UNDER_CEILINGS
    if config.context_window is not None:
        cap = min(cap, max(1, config.context_window // 2))
    if ceiling_nano is not None:
        cap = min(cap, max(LEAST_CAP, output_for(price, ceiling_nano // CALLS_UNDER_CEILINGS)))
    return cap


def asked_for(job: Job) -> int | None:
    """How long an answer the job itself allows, in tokens."""
    if not job.params:
        return None
    asked = job.params.get("max_completion_tokens", job.params.get("max_tokens"))
    return asked if isinstance(asked, int) else None


def room(candidates: Iterable[ModelConfig]) -> int | None:
    """Bytes of text that fit every candidate, whatever they say; None: no window is known, so nothing is refused."""
    rooms = [
        one.context_window - (one.max_output_tokens or 0) - SLACK_TOKENS
        for one in candidates
        if one.context_window is not None
    ]
    return min(rooms, default=None)


def surely_fits(job: Job, size: int, room: int) -> bool:
    """May the counting be left out? `size` is the entry's, in bytes: no text of it has more tokens than that."""
    if size + (asked_for(job) or 0) > room:
        return False
    return all(isinstance(one.content, str) for one in job.messages)  # an image has few bytes and many tokens


def misfit(job: Job, config: ModelConfig, tokens: int, source: str) -> Misfit | None:
    """Why the model cannot take the job; None: it can, or only the provider can tell.

    `tokens` and `source` are as in `theo_workers.tokens.count.Count`. A count that is not exact refuses only what
    is too long by more than it may be wrong: another model may be no better, and the provider's refusal is free.
    """
    window = config.context_window
    if window is None:
        return None
    # Providers refuse a prompt that leaves less than the cap they are sent.
    answer = 0 if config.provider in (*_APART, *_CUT) else output_cap(job, config) or 0
    if tokens * CERTAIN.get(source, 1.0) + answer <= window:
        return None
    return Misfit(config.name, window, tokens, answer, source == "tokenizer")


def refusal(misfits: Sequence[Misfit]) -> ContextLengthExceeded:
    """What to say when these models cannot take the job: the roomiest one's numbers, and the others by name."""
    roomiest = max(misfits, key=lambda one: one.window - one.answer)
    others = [one.model for one in misfits if one is not roomiest]
    need = f"{'' if roomiest.exact else 'about '}{roomiest.prompt:,} prompt tokens"
    if roomiest.answer:
        need += f" and up to {roomiest.answer:,} for the answer"
    text = f"{need} do not fit the context window of {roomiest.model}, {roomiest.window:,} tokens"
    if others:
        text += f"; nor those of {', '.join(others[:_NAMED])}{' and others' if len(others) > _NAMED else ''}"
    return ContextLengthExceeded(text)
