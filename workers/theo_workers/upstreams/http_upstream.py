"""An upstream made of a wire format and an HTTP endpoint; every provider's adapter is one."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from theo_workers.clock import Clock
from theo_workers.errors import InvalidRequest, UpstreamError
from theo_workers.messages import Completion, DeltaSink, Request
from theo_workers.texts import plain, text_pieces
from theo_workers.upstreams.http import Body, HttpEndpoint
from theo_workers.upstreams.long_strings import Cuttings
from theo_workers.upstreams.origin import Origin
from theo_workers.upstreams.retained import TOO_MUCH, is_too_much
from theo_workers.upstreams.room import SMALL_BYTES, Share
from theo_workers.upstreams.sse import EventTooLongError, SseParser
from theo_workers.upstreams.wire import Headers, StreamedAnswer, WireFormat

MAX_EVENT_BYTES = 4_194_304


class HttpUpstream:
    """Implements `theo_workers.upstream.Upstream` for any wire format."""

    def __init__(
        self,
        origin: Origin,
        wire: WireFormat,
        endpoint: HttpEndpoint,
        clock: Clock,
        *,
        streamed: HttpEndpoint | None = None,
    ) -> None:
        """`streamed` is where streams are asked for, where that is another place."""
        self._origin, self._wire, self._clock = origin, wire, clock
        self._endpoint, self._stream_endpoint = endpoint, streamed or endpoint
        self.amendments = 0

    @property
    def provider(self) -> str:
        return self._origin.provider

    async def generate(self, request: Request, *, deadline: float, on_delta: DeltaSink | None) -> Completion:
        """See `Upstream.generate`. A server that answers a streamed request in plain JSON is understood.

        A request refused for a word that has another is sent once more, and so is one that is refused for reasoning
        which goes back, without that: nothing was generated for it.
        """
        amended = False
        while True:
            body = self._wire.encode(request)
            try:
                if not request.stream:
                    head = plain = Body()
                    share = await self._endpoint.exchange(body, plain, deadline=deadline)
                    return self._read(plain, share)
                streamed = _Streamed(self._origin, self._wire, on_delta, self._clock)
                head = streamed.plain
                share = await self._stream_endpoint.exchange(body, streamed, deadline=deadline)
                return self._read(streamed, share)
            except InvalidRequest as error:
                if 200 <= head.status < 300:
                    raise  # told within an answer, of which a part may have come, and is billed
                if (bare := self._wire.forgetting(request, error)) is not None:
                    request = bare
                elif amended or error.parameter is None or not self._wire.amend(error):
                    raise
                else:
                    amended = True
            self.amendments += 1

    def _read(self, received: Body | _Streamed, share: Share | None) -> Completion:
        try:
            completion = self._whole(received) if isinstance(received, Body) else received.finish(self._whole)
        except UpstreamError:
            received.forget()
            if share is not None:
                share.let_go()
            raise
        return completion if share is None else replace(completion, held=share)

    async def close(self) -> None:
        """Release connections. Idempotent."""
        await self._endpoint.close()
        await self._stream_endpoint.close()

    def _whole(self, body: Body) -> Completion:
        if not 200 <= body.status < 300:
            raise self._wire.refusal(body.status, body.headers, body.data, now=self._clock.wall())
        kind = body.headers.get("content-type")
        if kind is not None and "json" not in kind.lower():
            raise self._origin.garbage(f"the answer is {kind.partition(';')[0]}, not JSON")
        if len(body.data) > SMALL_BYTES:
            return self._large(body)
        return self._wire.decode(body.headers, body.data)

    def _large(self, body: Body) -> Completion:
        """Decoded without its long strings, as it would else be there several times over."""
        odd = "invalid JSON"
        try:
            cuttings = Cuttings(body.data)
            if not cuttings.too_much:
                try:
                    completion = self._wire.decode(body.headers, cuttings.rest)
                except UpstreamError:  # told again, in the provider's own words
                    return self._wire.decode(body.headers, body.data)
                return replace(
                    completion,
                    output=cuttings.text(plain(completion.output)),
                    tool_calls=cuttings.json(completion.tool_calls) if completion.tool_calls else None,
                )
            odd = "too many values"
        except UnicodeDecodeError:
            odd = "invalid UTF-8"
        except ValueError:
            pass
        raise self._origin.garbage(f"the answer is {odd}")


class _Streamed:
    """Receives a stream of events, or whatever came in its place."""

    def __init__(self, origin: Origin, wire: WireFormat, on_delta: DeltaSink | None, clock: Clock) -> None:
        self._origin, self._wire, self._on_delta, self._clock = origin, wire, on_delta, clock
        self._began = clock.monotonic()
        self._first_token_ms: float | None = None
        self._parser = SseParser(max_event_bytes=MAX_EVENT_BYTES)
        self.plain = Body()
        self.answer: StreamedAnswer | None = None

    @property
    def sufficient(self) -> bool:
        return self.plain.sufficient if self.answer is None else self.answer.sufficient

    @property
    def streamed(self) -> bool:
        return self.answer is not None

    def forget(self) -> None:
        self.plain.forget()
        self.answer, self._parser = None, SseParser()

    @property
    def kept(self) -> int:
        if self.answer is None:
            return self.plain.kept
        # Who hears the pieces keeps them, too.
        return self.answer.kept * (1 if self._on_delta is None else 2) + self._parser.kept

    @property
    def midway(self) -> bool:
        return self.plain.midway if self.answer is None else self._parser.midway

    def head(self, status: int, headers: Headers) -> None:
        self.plain.head(status, headers)
        if 200 <= status < 300 and "event-stream" in headers.get("content-type", "").lower():
            self.answer = self._wire.stream(headers)

    def chunk(self, data: bytes) -> bool:
        answer = self.answer
        if answer is None:
            return self.plain.chunk(data)
        try:
            events = self._parser.feed(data)
        except EventTooLongError:
            events = None
        if events is None:
            raise self._origin.garbage(f"an event of the stream is larger than {MAX_EVENT_BYTES} bytes")
        for event in events:
            if is_too_much(event.data):
                raise self._origin.garbage(TOO_MUCH)
            self._tell(answer.feed(event))
            if answer.done:
                return True
        return False

    def finish(self, whole: Callable[[Body], Completion]) -> Completion:
        """The answer; `whole` reads one that came in plain JSON after all."""
        answer = self.answer
        if answer is None:
            completion = whole(self.plain)
            output = completion.output
            if self._on_delta is not None and output:
                for piece in (output,) if isinstance(output, str) else text_pieces(output):
                    self._on_delta(piece)
            return completion
        if not answer.sufficient:  # perhaps the last event lacks its blank line
            for event in self._parser.close():
                self._tell(answer.feed(event))
        completion = answer.finish()
        return replace(completion, first_token_ms=self._first_token_ms)

    def _tell(self, text: str) -> None:
        if not text:
            return
        if self._first_token_ms is None:
            self._first_token_ms = (self._clock.monotonic() - self._began) * 1_000
        if self._on_delta is not None:
            self._on_delta(text)
