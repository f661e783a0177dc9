"""What the suites of the translated formats share: ways to ask, to answer and to feed streams."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import strategies as st

from theo_workers.errors import InvalidRequest, UpstreamError
from theo_workers.failures import FailureClass
from theo_workers.messages import Completion, Message, Request
from theo_workers.upstreams.sse import SseEvent
from theo_workers.upstreams.wire import StreamedAnswer, WireFormat

NOW = 1_700_000_000.0
USER = Message(role="user", content="hi")
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "of a city", "parameters": SCHEMA}
PNG, JPEG = "data:image/png;base64,iVBORw0KGgo=", "https://pictures.example/cat.jpg"
PDF = "data:application/pdf;base64,JVBERi0="


def encoded(wire: WireFormat, *messages: Message, stream: bool = False, **params: Any) -> dict[str, Any]:
    """The body that goes out, as JSON."""
    request = Request(messages=messages or (USER,), params=params, stream=stream)
    body: dict[str, Any] = json.loads(wire.encode(request))
    return body


def refused(wire: WireFormat, *messages: Message, **params: Any) -> str:
    """The reason why it can't be asked."""
    with pytest.raises(InvalidRequest) as caught:
        encoded(wire, *messages, **params)
    assert caught.value.failure is FailureClass.CALLER
    return caught.value.detail


def decoded(wire: WireFormat, answer: Any, headers: Any = None) -> Completion:
    return wire.decode(headers or {}, json.dumps(answer).encode())


def failure(wire: WireFormat, answer: Any) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        decoded(wire, answer)
    return caught.value


def fed(wire: WireFormat, *events: Any) -> tuple[list[str], StreamedAnswer]:
    """The deltas, and the stream as it is then."""
    stream = wire.stream({})
    deltas = [stream.feed(SseEvent(b"", json.dumps(event).encode())) for event in events]
    return [delta for delta in deltas if delta], stream


def assembled(wire: WireFormat, *events: Any) -> tuple[list[str], Completion]:
    """The deltas and the completion; what was delivered is the answer."""
    deltas, stream = fed(wire, *events)
    completion = stream.finish()
    assert "".join(deltas) == completion.output
    return deltas, completion


def broken(wire: WireFormat, *events: Any) -> UpstreamError:
    """The error that a stream ends in."""
    with pytest.raises(UpstreamError) as caught:
        fed(wire, *events)[1].finish()
    return caught.value


def calls_of(completion: Completion) -> list[tuple[str, str, Any]]:
    """Id, name and parsed arguments of each call."""
    assert completion.finish_reason == "tool_calls"
    assert completion.tool_calls is not None
    calls = json.loads(bytes(completion.tool_calls))
    assert all(call["type"] == "function" for call in calls)
    return [(c["id"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls]


def told(wire: WireFormat, status: int, body: Any, **headers: str) -> UpstreamError:
    """The error for a refusal."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return wire.refusal(status, named, json.dumps(body).encode(), now=NOW)


def calling(*calls: tuple[str, str, str], content: Any = None, extra: Any = None) -> Message:
    """An assistant's turn with calls (id, name, arguments)."""
    more = {"extra_content": extra} if extra else {}
    made = [
        {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}, **more}
        for identity, name, arguments in calls
    ]
    return Message(role="assistant", content=content, tool_calls=made)


def result(call_id: str, content: Any) -> Message:
    return Message(role="tool", tool_call_id=call_id, content=content)


def picture(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def any_json(words: str) -> st.SearchStrategy[Any]:
    """JSON whose keys and texts are often those that a format looks for."""
    names = words.split()
    leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
    return st.recursive(
        leaves | st.sampled_from(names),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names), inner, max_size=5)
        ),
        max_leaves=20,
    )


def survives(wire: WireFormat, answer: Any) -> None:
    """Whatever comes, plain or as an event, is a completion that can be written, or an UpstreamError."""
    body = json.dumps(answer).encode()
    try:
        completion = wire.decode({}, body)
    except UpstreamError as error:
        str(error).encode()
    else:
        completion.output.encode()
    stream = wire.stream({})
    try:
        stream.feed(SseEvent(b"", body)).encode()
        stream.finish().output.encode()
    except UpstreamError as error:
        str(error).encode()


def is_sent_or_refused(wire: WireFormat, value: Any) -> None:
    """Whatever is asked is a body, or an InvalidRequest."""
    listed = value if isinstance(value, list) else [value]
    for role in ("system", "user", "assistant", "tool"):
        asked = Message(role=role, content=listed, tool_calls=listed, tool_call_id="c")
        for params in ({"tools": value, "tool_choice": value}, {"response_format": value, "stop": value}):
            with contextlib.suppress(InvalidRequest):
                json.loads(wire.encode(Request(messages=(asked,), params=params)))
