"""A large body is read without its long strings: what comes out is what its format makes of all of it."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from theo_workers.clock import SystemClock
from theo_workers.errors import ProviderUnavailable, UpstreamError
from theo_workers.messages import Completion
from theo_workers.model_spec import ModelSpec
from theo_workers.texts import plain
from theo_workers.upstreams.build import build_upstream
from theo_workers.upstreams.http import Body
from theo_workers.upstreams.http_upstream import HttpUpstream
from theo_workers.upstreams.long_strings import LONG_BYTES, Cuttings

LONG = 'He said: "汉\\字" 😀\n\t' * 5_000
PADDING = "x" * 300_000  # above what is read like any small body


def chat(**message: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": "stop"}], "pad": PADDING}


FORMATS: list[tuple[str, dict[str, Any]]] = [
    ("openai", chat(content=LONG)),
    ("openai", chat(content=[{"type": "text", "text": "He said \""}, {"type": "text", "text": LONG}])),
    ("openai", chat(content="short")),
    ("openai", chat(tool_calls=[{"id": "a", "function": {"name": "f", "arguments": json.dumps({"x": LONG})}}])),
    ("openai", chat(tool_calls=[{"function": {"name": "f", "arguments": {"x": LONG, "y": [LONG, '"']}}}])),
    ("openai_responses", {"status": "completed", "pad": PADDING, "output": [
        {"type": "message", "content": [{"type": "output_text", "text": LONG}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": json.dumps([LONG])},
        {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": LONG}]}),
    ("anthropic", {"content": [
        {"type": "thinking", "thinking": LONG, "signature": "s" * 9_000}, {"type": "text", "text": LONG},
        {"type": "text", "text": "short"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"deep": [{LONG: LONG}]}}],
        "stop_reason": "tool_use", "pad": PADDING}),
    ("gemini", {"candidates": [{"finishReason": "STOP", "content": {"parts": [
        {"text": LONG}, {"text": LONG, "thought": True}, {"functionCall": {"name": "f", "args": {"a": LONG}}}]}}],
        "pad": PADDING}),
]  # fmt: skip


def upstream(provider: str) -> HttpUpstream:
    spec = ModelSpec(name="m", provider=provider, model="m", base_url="http://127.0.0.1:9/v1")  # type: ignore[arg-type]
    built = build_upstream(spec, SystemClock(), random.Random(1))
    return next(one for one in (built, *vars(built).values()) if isinstance(one, HttpUpstream))


def received(told: bytes) -> Body:
    body = Body()
    body.head(200, {"content-type": "application/json"})
    for start in range(0, len(told), 70_000):
        body.chunk(told[start : start + 70_000])
    return body


def told(completion: Completion) -> tuple[Any, ...]:
    calls = completion.tool_calls
    return (
        plain(completion.output), completion.finish_reason, completion.usage, completion.provider_request_id,
        None if calls is None else [_opened(call) for call in msgspec.json.decode(calls)],
    )  # fmt: skip


def _opened(call: dict[str, Any]) -> dict[str, Any]:
    """Two spellings of a call's arguments are equal where they say the same."""
    function = call.get("function")
    return (
        call
        if function is None
        else {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}
    )


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize(("provider", "answer"), FORMATS)
def test_all_formats_read_it_as_they_read_a_small_one(
    provider: str, answer: dict[str, Any], ascii_only: bool
) -> None:
    body = received(json.dumps(answer, ensure_ascii=ascii_only).encode())
    adapter = upstream(provider)
    whole = adapter._wire.decode(body.headers, body.data)
    assert told(adapter._whole(body)) == told(whole)


def test_the_long_ones_are_no_more_in_what_is_decoded() -> None:
    body = json.dumps(chat(content=LONG)).encode()
    assert len(Cuttings(body).rest) < LONG_BYTES < len(body)


def test_an_answer_with_marks_in_it_is_told_from_ours() -> None:
    content = [{"type": "text", "text": f"\ue0000;\ue001{chr(0xE002)}"}, {"type": "text", "text": LONG}]
    for ascii_only in (False, True):
        body = received(json.dumps(chat(content=content), ensure_ascii=ascii_only).encode())
        assert plain(upstream("openai")._whole(body).output) == f"\ue0000;\ue001\ue002{LONG}"


def test_what_an_error_says_at_length_is_told_in_its_own_words() -> None:
    body = received(
        json.dumps(
            {"error": {"message": "it broke " * 1_000, "type": "server_error"}, "pad": PADDING}
        ).encode()
    )
    with pytest.raises(UpstreamError, match="it broke it broke"):
        upstream("openai")._whole(body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (json.dumps(chat(content=LONG)).encode()[:-90], "JSON"),
        (json.dumps(chat(content=LONG), ensure_ascii=False).encode().replace("汉".encode(), b"\xe6\xb1"), "UTF-8"),
        (json.dumps(chat(content="x" * 9_000)).encode().replace(b"x" * 8_000, b"x" * 7_000 + b"\\ud83d"), "JSON"),
        (json.dumps(chat(content="x" * 9_000)).encode().replace(b"x" * 8_000, b"x" * 7_000 + b"\n"), "JSON"),
        (b'{"choices":[' + b"{}," * 2_000_000 + b"{}]}", "too many values"),
        (b'{"choices":[{"message":{"content":[' + b"[]," * 2_000_000 + b"[]]}}]}", "too many values"),
        (b'"' * 400_000, "JSON"),
        (b"\\" * 400_000, "JSON"),
    ],
)  # fmt: skip
def test_garbage_is_garbage_at_any_size(body: bytes, reason: str) -> None:
    with pytest.raises(ProviderUnavailable, match=reason):
        upstream("openai")._whole(received(body))
