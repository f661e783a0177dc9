"""Counts the tokens of texts and requests, and bounds them from above."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Any, Literal

from msgspec import Raw, Struct

from theo_workers.messages import Message
from theo_workers.texts import Text, text_pieces
from theo_workers.tokens.bound import bound_from_bytes, bound_from_count
from theo_workers.tokens.definitions import Definitions
from theo_workers.tokens.encodings import encoding_for
from theo_workers.tokens.families import Family, Linear, OpenAI, family_for
from theo_workers.tokens.formulas import count_linear, count_openai
from theo_workers.tokens.parts import content_of, encode, open_ended
from theo_workers.tokens.ranks import ENCODINGS, Encodings, RanksDamagedError
from theo_workers.tokens.tokenizer import Tokenizer, byte_length

LARGE_CHARS = 16_384  # above this a count holds the event loop for more than about 2 ms

Source = Literal["tokenizer", "formula", "characters"]


class Count(Struct, frozen=True):
    """`source`: the model's own tokenizer, its family's measured formula, or a guess from the length."""

    tokens: int
    source: Source

    @property
    def exact(self) -> bool:
        """Is this what the provider will report, by all that is known of its rules?"""
        return self.source == "tokenizer"


class Measure(Struct, frozen=True):
    """A request's prompt tokens as expected, and at most; None: nobody knows (see `parts.open_ended`)."""

    count: Count
    bound: int | None


class TokenCounter:
    """May be shared by threads. Encodings load on first use, which blocks; `warm` loads them beforehand."""

    def __init__(self, encodings: Encodings | None = None) -> None:
        self._encodings = ENCODINGS if encodings is None else encodings
        self._loaded: dict[str, Tokenizer] = {}
        self._damaged: set[str] = set()
        self._definitions = Definitions()

    async def warm(self, models: Iterable[str]) -> None:
        """Load the encodings of these models in a thread. Raises RanksDamagedError."""
        for ranks in sorted({_ranks_for_model(model) for model in models}):
            self._loaded[ranks] = Tokenizer(await asyncio.to_thread(self._encodings.get, ranks))

    def count_text(self, text: Text, model: str) -> Count:
        """The tokens of a bare text, without any frame of a request. Of a long one only the beginning is counted."""
        if isinstance(text, Raw):
            beginning = next(text_pieces(text), "")
            share = len(memoryview(text)) / max(1, byte_length(beginning))
            return Count(ceil(self.count_text(beginning, model).tokens * share), "characters")
        tokens = self._tokens(_ranks_for_model(model))
        if tokens is None:
            return Count(_by_length(text), "characters")
        if encoding_for(model) == "o200k_harmony":
            return Count(tokens(text), "tokenizer")
        match family_for("", model):
            case Linear(text=each, rare=rare):
                return Count(ceil(tokens.weigh(text, each=each, rare=rare)), "formula")
            case OpenAI():
                return Count(tokens(text), "tokenizer")

    def count_request(
        self, messages: Sequence[Message], params: Mapping[str, Any], *, provider: str, model: str
    ) -> Count:
        """The prompt tokens to expect. `provider` is the wire format, as the configuration names it."""
        return self._count(family_for(provider, model), messages, params, model)

    def bound_request(
        self, messages: Sequence[Message], params: Mapping[str, Any], *, provider: str, model: str
    ) -> int | None:
        """Prompt tokens at most, for reserving money; None where no bound is known."""
        family = family_for(provider, model)
        count = self._count(family, messages, params, model) if isinstance(family, OpenAI) else None
        return self._bound(family, count, messages, params, model)

    def loose_bound_request(
        self, messages: Sequence[Message], params: Mapping[str, Any], *, provider: str, model: str
    ) -> int | None:
        """As `bound_request`, from the length of the texts alone: several times cheaper, and several times too high.

        For calls that draw on no ceiling, where the bound only matters after a crash.
        """
        return self._bound(family_for(provider, model), None, messages, params, model)

    def measure_request(
        self, messages: Sequence[Message], params: Mapping[str, Any], *, provider: str, model: str
    ) -> Measure:
        """Count and bound, in one pass where they share it."""
        family = family_for(provider, model)
        count = self._count(family, messages, params, model)
        return Measure(count, self._bound(family, count, messages, params, model))

    async def measure_request_async(
        self, messages: Sequence[Message], params: Mapping[str, Any], *, provider: str, model: str
    ) -> Measure:
        """`measure_request`, in a thread when the texts are large or the encoding is not loaded yet."""
        if self._is_quick(messages, params, provider, model):
            return self.measure_request(messages, params, provider=provider, model=model)
        return await asyncio.to_thread(self.measure_request, messages, params, provider=provider, model=model)

    async def count_request_async(
        self, messages: Sequence[Message], params: Mapping[str, Any], *, provider: str, model: str
    ) -> Count:
        """`count_request`, in a thread when the texts are large or the encoding is not loaded yet."""
        if self._is_quick(messages, params, provider, model):
            return self.count_request(messages, params, provider=provider, model=model)
        return await asyncio.to_thread(self.count_request, messages, params, provider=provider, model=model)

    def _count(
        self, family: Family, messages: Sequence[Message], params: Mapping[str, Any], model: str
    ) -> Count:
        tokens = self._tokens(_ranks_for(family))
        if tokens is None:
            return Count(sum(4 + _by_length(content_of(message).text) for message in messages), "characters")
        parts: dict[str, Any] = {"model": model, "tokens": tokens, "definitions": self._definitions}
        if isinstance(family, OpenAI):
            total, exact = count_openai(family, messages, params, **parts)
            return Count(total, "tokenizer" if exact else "formula")
        return Count(count_linear(family, messages, params, **parts), "formula")

    def _bound(
        self,
        family: Family,
        count: Count | None,
        messages: Sequence[Message],
        params: Mapping[str, Any],
        model: str,
    ) -> int | None:
        if open_ended(params, model) is not None:
            return None
        ranks = _ranks_for(family)
        tokens = self._tokens(ranks) or _by_length
        tools = self._definitions.tools(params, ranks, tokens)
        schema = self._definitions.output_schema(params, ranks, tokens)
        if isinstance(family, OpenAI) and count is not None and count.source != "characters":
            return bound_from_count(
                family, count.tokens, messages, params, model=model, tools=tools, schema=schema
            )
        return bound_from_bytes(family, messages, model=model, tools=tools, schema=schema)

    def _is_quick(
        self, messages: Sequence[Message], params: Mapping[str, Any], provider: str, model: str
    ) -> bool:
        if _ranks_for(family_for(provider, model)) not in self._loaded:
            return False
        length = sum(len(content_of(message).text) for message in messages)
        if length <= LARGE_CHARS and not params.keys().isdisjoint(("tools", "functions", "response_format")):
            length += len(encode(params))
        return length <= LARGE_CHARS

    def _tokens(self, ranks: str) -> Tokenizer | None:
        tokens = self._loaded.get(ranks)
        if tokens is None and ranks not in self._damaged:
            try:
                tokens = self._loaded[ranks] = Tokenizer(self._encodings.get(ranks))
            except RanksDamagedError:
                self._damaged.add(ranks)  # `warm` has told the operator; jobs go on with a guess
        return tokens


def _ranks_for(family: Family) -> str:
    return _ranks(family.encoding) if isinstance(family, OpenAI) else "o200k_base"


def _ranks_for_model(model: str) -> str:
    return _ranks(encoding_for(model))


def _ranks(encoding: str | None) -> str:
    # Ordinary text is the same in o200k_harmony, and models of others are measured in o200k_base.
    return "o200k_base" if encoding in (None, "o200k_harmony") else str(encoding)


def _by_length(text: str) -> int:
    # Four characters of English a token; other scripts come nearer to one character each.
    return ceil(byte_length(text) / (4 if text.isascii() else 3))
