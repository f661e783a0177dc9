"""One streamed answer of Anthropic's Messages format, put together event by event. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from theo_workers.errors import UpstreamError
from theo_workers.messages import Completion
from theo_workers.texts import clean
from theo_workers.upstreams.answer import latest
from theo_workers.upstreams.anthropic_answer import Block, UsageTold, completed, read_usage, usage_told
from theo_workers.upstreams.complaint import complaint_of
from theo_workers.upstreams.gathered import Gathered
from theo_workers.upstreams.indexed import TOO_MANY, Indexed
from theo_workers.upstreams.origin import Origin, request_id
from theo_workers.upstreams.refusals import refusal_in_answer
from theo_workers.upstreams.retained import TOO_MUCH, Retained
from theo_workers.upstreams.sse import SseEvent


class _Delta(Struct):
    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None


class _Message(Struct):
    id: Any = None
    usage: Raw = Raw()


class _Event(Struct):
    type: str | None = None
    index: Any = None
    message: _Message | None = None
    content_block: Block | None = None
    delta: _Delta | None = None
    usage: Raw = Raw()
    error: Any = None


_decoder = msgspec.json.Decoder(_Event)


class AnthropicStream:
    """Assembles the answer from message_start, blocks with their deltas, message_delta and message_stop."""

    def __init__(self, origin: Origin, *, identity: str | None) -> None:
        self._origin, self._identity = origin, identity
        self._blocks: Indexed[_BlockParts] = Indexed()
        self._texts = Gathered()
        self._usage = UsageTold()
        self._stop_reason: str | None = None
        self._retained = Retained()
        self.kept = 0
        self.done = False

    @property
    def sufficient(self) -> bool:
        """The answer is whole, even if the connection ends badly from here: its reason to stop is known."""
        return self.done or self._stop_reason is not None

    def feed(self, event: SseEvent) -> str:
        """Text that the event adds, often none. Raises UpstreamError for an error in the stream."""
        told = self._origin.decode(_decoder, event.data)
        match told.type:
            case "content_block_delta" if told.delta is not None:
                text = self._block(told.index).add(told.delta)
                self.kept += len(text) or len(event.data)
                return text
            case "content_block_start" if told.content_block is not None:
                self.kept += len(event.data)
                if self._retained.too_much(event.data):
                    raise self._garbage(TOO_MUCH)
                return self._begin_block(told.index, told.content_block).begin()
            case "message_start" if told.message is not None:
                self._begin(told.message)
            case "message_delta":
                if told.delta is not None and told.delta.stop_reason is not None:
                    self._stop_reason = told.delta.stop_reason
                self._usage = latest(self._usage, usage_told(told.usage))
            case "message_stop":
                self.done = True
            case "error":
                raise self._failed(told.error)
        return ""  # a ping, or an event of a kind that is not known yet

    def finish(self) -> Completion:
        """The answer. Raises ProviderUnavailable when the stream ended without a terminal event."""
        usage = read_usage(self._usage)
        if not self.sufficient:
            raise self._garbage(
                "the stream ended in the middle of the answer" if self._blocks else "the stream was empty"
            )
        blocks = [parts.joined() for parts in self._blocks]
        return completed(
            self._origin,
            blocks,
            stop_reason=self._stop_reason,
            usage=usage,
            identity=self._identity,
            text=self._texts.whole(),
        )

    def _begin(self, message: _Message) -> None:
        if self._identity is None and isinstance(message.id, str):
            self._identity = request_id(message.id)
        self._usage = usage_told(message.usage)

    def _block(self, index: Any) -> _BlockParts:
        parts = self._blocks.named(index)
        if parts is None:
            raise self._garbage("the stream continues a block that it never began")
        return parts

    def _begin_block(self, index: Any, block: Block) -> _BlockParts:
        if self._blocks.full:
            raise self._garbage(TOO_MANY)
        return self._blocks.begin(index, _BlockParts(block, self._texts))

    def _garbage(self, what: str) -> UpstreamError:
        return self._origin.garbage(what, provider_request_id=self._identity, usage=read_usage(self._usage))

    def _failed(self, told: Any) -> UpstreamError:
        error = refusal_in_answer(
            self._origin, complaint_of(told), begun=bool(self._blocks), provider_request_id=self._identity
        )
        error.usage = read_usage(self._usage)
        return error


class _BlockParts:
    """One content block while its pieces arrive."""

    def __init__(self, block: Block, texts: Gathered) -> None:
        """`texts` are those of the whole answer."""
        self._block, self._texts = block, texts
        self._json, self._thoughts, self._signatures = Gathered(), Gathered(), Gathered()

    def begin(self) -> str:
        """Text that the block begins with; usually it is empty."""
        text = self._block.text
        if self._block.type == "thinking" and isinstance(self._block.thinking, str):
            self._thoughts.add(self._block.thinking)
        return self._say(text) if self._block.type == "text" and isinstance(text, str) else ""

    def add(self, delta: _Delta) -> str:
        """Text of the answer in this piece, often none."""
        if delta.partial_json:
            self._json.add(delta.partial_json)
        if delta.thinking:
            self._thoughts.add(delta.thinking)
        if delta.signature:
            self._signatures.add(delta.signature)
        return self._say(delta.text) if delta.text and self._block.type == "text" else ""

    def joined(self) -> Block:
        """The whole block. The arguments of a call stay the text that they came as."""
        block = self._block
        match block.type:
            case "tool_use" if self._json:
                block.input = self._json.whole()
            case "thinking":
                block.thinking = self._thoughts.whole()
                block.signature = self._signatures.whole() or block.signature
        return block

    def _say(self, text: str) -> str:
        text = clean(text)
        if text:
            self._texts.add(text)
        return text
