"""Jobs that must be refused, and the code each gets: for the decoder's own test and for one from the outside."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

MAX_JOB_BYTES = 1_000_000


class Malformed(NamedTuple):
    why: str
    fields: list[bytes]  # name, value, name, value...
    code: str
    says: str  # part of the message: the field, or what is wrong


def flat(**fields: str | bytes) -> list[bytes]:
    """Fields of a flat job."""
    words: list[bytes] = []
    for name, value in fields.items():
        words += name.encode(), value if isinstance(value, bytes) else value.encode()
    return words


def document(**members: Any) -> list[bytes]:
    """A job in the one field `job`."""
    return [b"job", json.dumps(members).encode()]


def text(job: str | bytes) -> list[bytes]:
    """A job field with exactly these bytes."""
    return [b"job", job if isinstance(job, bytes) else job.encode()]


def _bad(why: str, fields: list[bytes], says: str, code: str = "invalid_job") -> Malformed:
    return Malformed(why, fields, code, says)


def nested(levels: int) -> str:
    """JSON arrays in one another."""
    return "[" * levels + "]" * levels


def holding(raw: str) -> str:
    """A JSON object with one member, spelled like this."""
    return '{"a":' + raw + "}"


def _param(why: str, name: str, value: Any) -> Malformed:
    return _bad(why, flat(prompt="x", params=json.dumps({name: value})), f"params.{name}")


def _message(why: str, message: Any, says: str) -> Malformed:
    return _bad(why, flat(messages=json.dumps([message])), says)


FORMS = [
    _bad("params of null", flat(prompt="x", params="null"), "params must not be null"),
    _bad("metadata of null", flat(prompt="x", metadata=" null "), "metadata must not be null"),
    _bad("messages of null", flat(messages="null"), "messages must not be null"),
    _bad("nothing at all", [b"unknown", b"1"], "neither prompt nor messages"),
    _bad("both forms", [*flat(prompt="x"), *document(prompt="x")], "both given"),
    _bad("both forms, through an envelope field", [*flat(id="x"), *document(prompt="x")], "both given"),
    _bad("a field twice", [*flat(prompt="x"), *flat(prompt="y")], "'prompt' is given twice"),
    _bad("an unknown field twice", [*flat(prompt="x"), b"u", b"1", b"u", b"1"], "'u' is given twice"),
    _bad("job twice", [*document(prompt="x"), *document(prompt="x")], "'job' is given twice"),
    _bad("a JSON key twice", text('{"prompt":"x","prompt":"x"}'), "'prompt' twice"),
    _bad("a JSON key twice, once escaped", text('{"prompt":"x","pr\\u006fmpt":"x"}'), "twice"),
    _bad("a JSON key twice, hidden by an escaped colon", text('{"prompt":"\\u003a","a":1,"a":2}'), "twice"),
    _bad(
        "a nested JSON key twice",
        flat(prompt="x", metadata='{"a":{"b":1,"b":2}}'),
        "metadata has the key 'b'",
    ),
    _bad("a key twice in what is dropped", text('{"prompt":"x","u":{"a":1,"a":1}}'), "twice"),
    _bad("job is empty", text(""), "job is not JSON: it is empty"),
    _bad("job is a text", text('"prompt"'), "job must be a JSON object"),
    _bad("job is an array", text('[{"prompt":"x"}]'), "job must be a JSON object"),
    _bad("job is cut", text('{"prompt":"x"'), "job is not JSON"),
    _bad("job has something behind it", text('{"prompt":"x"} {}'), "trailing characters"),
    _bad("job begins with a byte order mark", text(b'\xef\xbb\xbf{"prompt":"x"}'), "byte order mark"),
    _bad("job has single quotes", text("{'prompt':'x'}"), "job is not JSON"),
    _bad("job is not UTF-8", text(b'{"prompt":"\xff"}'), "UTF-8"),
    _bad("job has a surrogate in UTF-8", text(b'{"prompt":"\xed\xa0\x80"}'), "UTF-8"),
    _bad("job has a lone surrogate", text('{"prompt":"\\ud800"}'), "surrogate"),
    _bad("a lone surrogate in what is dropped", text('{"prompt":"x","u":"\\udc00 and on"}'), "surrogate"),
    _bad("a control character in a text", text(b'{"prompt":"a\nb"}'), "invalid character"),
    _bad("NaN", text('{"prompt":"x","params":{"temperature":NaN}}'), "NaN"),
    _bad("Infinity", flat(prompt="x", metadata='{"a":Infinity}'), "NaN and Infinity"),
    _bad("minus Infinity", flat(prompt="x", metadata='{"a":-Infinity}'), "NaN and Infinity"),
    _bad("a float beyond a double", flat(prompt="x", params='{"u":1e400}'), "beyond a double"),
    _bad("an integer beyond a double", flat(prompt="x", metadata=holding("9" * 309)), "beyond a double"),
    _bad("an enormous integer", flat(prompt="x", metadata=holding("-" + "9" * 9000)), "beyond a double"),
    _bad("nesting of 65", flat(prompt="x", metadata=holding(nested(64))), "deeper than 64"),
    _bad("nesting of 65 in job", text('{"prompt":"x","u":' + nested(64) + "}"), "deeper than 64"),
    _bad("nesting of 100,000", text('{"prompt":"x","u":' + nested(100_000) + "}"), "deeper than 64"),
    _bad("half a million brackets", text("[" * 500_000), "deeper than 64"),
]

ASKED = [
    _bad("prompt and messages", flat(prompt="x", messages='[{"role":"user","content":"x"}]'), "both prompt and"),
    _bad("an empty prompt", flat(prompt=""), "prompt must not be empty"),
    _bad("a prompt that is no UTF-8", flat(prompt=b"caf\xe9"), "prompt is not valid UTF-8"),
    _bad("a prompt that is a number", document(prompt=5), "prompt must be text"),
    _bad("a prompt that is null", document(prompt=None), "neither prompt nor messages"),
    _bad("messages that are no JSON", flat(messages="hello"), "messages is not JSON"),
    _bad("messages that are an object", flat(messages='{"role":"user","content":"x"}'), "must be a JSON array"),
    _bad("no messages", flat(messages="[]"), "messages must not be empty"),
    _bad("messages as JSON in JSON", document(messages='[{"role":"user","content":"x"}]'), "must be a JSON array"),
    _message("a message that is text", "hi", "messages[0] must be an object"),
    _message("a message without a role", {"content": "x"}, "messages[0].role"),
    _message("an unknown role", {"role": "robot", "content": "x"}, "'robot'"),
    _message("a role that is a list", {"role": ["user"], "content": "x"}, "messages[0].role"),
    _message("a message without content", {"role": "user"}, "messages[0].content"),
    _message("content that is a number", {"role": "user", "content": 5}, "messages[0].content"),
    _message("an empty list of parts", {"role": "user", "content": []}, "messages[0].content"),
    _message("a part that is text", {"role": "user", "content": ["x"]}, "messages[0].content[0]"),
    _message("a part without a type", {"role": "user", "content": [{"text": "x"}]}, "messages[0].content[0]"),
    _message("a text part without text", {"role": "user", "content": [{"type": "text"}]}, "content[0].text"),
    _message("an image that is text", {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "image"),
    _message("a tool result of no call", {"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
    _message("tool calls of a user", {"role": "user", "content": "x", "tool_calls": [{"id": "a"}]}, "tool_calls"),
    _message("tool calls that are an object", {"role": "assistant", "tool_calls": {"id": "a"}}, "tool_calls"),
    _message("a tool call without an id", {"role": "assistant", "tool_calls": [{"type": "function"}]}, "an id"),
    _message("a tool call without a function", {"role": "assistant", "tool_calls": [{"id": "a"}]}, "function"),
    _message(
        "tool arguments that are an object",
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {}}}]},
        "arguments",
    ),
    _message("a name that is a number", {"role": "user", "content": "x", "name": 5}, "messages[0].name"),
    _bad("a system that is a list", document(prompt="x", system=["be brief"]), "system must be text"),
    _bad("params that are no JSON", flat(prompt="x", params="temperature=1"), "params is not JSON"),
    _bad("params that are a list", flat(prompt="x", params="[]"), "params must be a JSON object"),
    _bad("empty params", flat(prompt="x", params=""), "params is not JSON: it is empty"),
    _bad("params as JSON in JSON", document(prompt="x", params="{}"), "params must be a JSON object"),
    *[
        _bad(f"the router's own {name} in params", flat(prompt="x", params=json.dumps({name: value})), name)
        for name, value in {
            "model": "gpt", "messages": [], "prompt": "x", "system": "x", "stream": False, "stream_options": {},
            "n": 1, "input": "x", "instructions": "x", "contents": [],
        }.items()
    ],
    _bad("the router's own stream in params, as null", flat(prompt="x", params='{"stream":null}'), "stream"),
    _param("a temperature that is text", "temperature", "hot"),
    _param("a temperature that is true", "temperature", True),
    _param("a top_p that is a list", "top_p", [1]),
    _param("max_tokens of zero", "max_tokens", 0),
    _param("negative max_tokens", "max_tokens", -5),
    _param("max_tokens and a half", "max_tokens", 10.5),
    _param("max_tokens as text", "max_tokens", "10"),
    _param("max_tokens beyond all models", "max_tokens", 10**12),
    _param("max_completion_tokens of zero", "max_completion_tokens", 0),
    _param("a stop that is a number", "stop", 5),
    _param("a stop that is a list of numbers", "stop", [5]),
    _param("too many stops", "stop", ["x"] * 17),
    _param("a seed that is text", "seed", "1"),
    _param("tools that are an object", "tools", {}),
    _param("tools that are texts", "tools", ["search"]),
    _param("a tool_choice that is a number", "tool_choice", 1),
    _param("a response_format that is text", "response_format", "json"),
    _param("a reasoning_effort that is a number", "reasoning_effort", 3),
]  # fmt: skip

REST = [
    _bad("an empty model", flat(prompt="x", model=""), "model is empty", "unknown_model"),
    _bad("a model that is a list", document(prompt="x", model=["a"]), "model must be text"),
    _bad("a model that is no UTF-8", flat(prompt="x", model=b"\xff"), "model is not valid UTF-8"),
    _bad("an empty reply_to", flat(prompt="x", reply_to=""), "reply_to", "reply_to_not_allowed"),
    _bad(
        "an endless reply_to",
        flat(prompt="x", reply_to="theo:reply:" + "x" * 600),
        "512",
        "reply_to_not_allowed",
    ),
    _bad(
        "a reply_to in two lines",
        flat(prompt="x", reply_to="theo:reply:a\nb"),
        "control",
        "reply_to_not_allowed",
    ),
    _bad("a reply_to that is a number", document(prompt="x", reply_to=5), "reply_to must be text"),
    _bad(
        "a reply_to that is no UTF-8",
        flat(prompt="x", reply_to=b"theo:reply:\xff"),
        "reply_to is not valid UTF-8",
    ),
    _bad("ttl_ms of zero", flat(prompt="x", ttl_ms="0"), "ttl_ms"),
    _bad("negative ttl_ms", flat(prompt="x", ttl_ms="-5"), "ttl_ms"),
    _bad("ttl_ms with a fraction", flat(prompt="x", ttl_ms="1.5"), "ttl_ms"),
    _bad("ttl_ms in words", flat(prompt="x", ttl_ms="soon"), "ttl_ms"),
    _bad("ttl_ms with white space", flat(prompt="x", ttl_ms=" 5"), "ttl_ms"),
    _bad("ttl_ms with underscores", flat(prompt="x", ttl_ms="1_000"), "ttl_ms"),
    _bad("ttl_ms in Arabic digits", flat(prompt="x", ttl_ms="٣"), "ttl_ms"),
    _bad("empty ttl_ms", flat(prompt="x", ttl_ms=""), "ttl_ms"),
    _bad("ttl_ms of true", document(prompt="x", ttl_ms=True), "ttl_ms"),
    _bad("ttl_ms beyond a double", flat(prompt="x", ttl_ms="9" * 5000), "ttl_ms"),
    _bad("deadline_ms of zero", document(prompt="x", deadline_ms=0), "deadline_ms"),
    _bad("deadline_ms as a date", flat(prompt="x", deadline_ms="2030-01-01"), "deadline_ms"),
    _bad("a workflow with a space", flat(prompt="x", workflow="a b"), "workflow"),
    _bad("an empty workflow", flat(prompt="x", workflow=""), "workflow"),
    _bad("a workflow too long", flat(prompt="x", workflow="w" * 65), "workflow"),
    _bad("a workflow with an end of line", flat(prompt="x", workflow="a\n"), "workflow"),
    _bad("a tenant in Greek", flat(prompt="x", tenant="α"), "tenant"),
    _bad("an empty tenant", flat(prompt="x", tenant=""), "tenant"),
    _bad("a tenant that is a number", document(prompt="x", tenant=7), "tenant"),
    _bad("an unknown cache mode", flat(prompt="x", cache="never"), "cache must be use or refresh or off"),
    _bad("a cache mode in capitals", flat(prompt="x", cache="USE"), "cache"),
    _bad("a cache mode that is false", document(prompt="x", cache=False), "cache"),
    _bad("an unknown on_unknown", flat(prompt="x", on_unknown="maybe"), "on_unknown must be retry or fail"),
    _bad("stream of 2", flat(prompt="x", stream="2"), "stream"),
    _bad("stream of true in flat form", flat(prompt="x", stream="true"), "stream"),
    _bad("an empty stream", flat(prompt="x", stream=""), "stream"),
    _bad("stream that is a list", document(prompt="x", stream=[1]), "stream"),
    _bad("negative max_cost", flat(prompt="x", max_cost="-1"), "max_cost"),
    _bad("max_cost NaN", flat(prompt="x", max_cost="NaN"), "max_cost"),
    _bad("max_cost Infinity", flat(prompt="x", max_cost="Infinity"), "max_cost"),
    _bad("max_cost beyond a double", flat(prompt="x", max_cost="1e999"), "beyond a double"),
    _bad("max_cost with a currency", flat(prompt="x", max_cost="$1"), "max_cost"),
    _bad("max_cost with a comma", flat(prompt="x", max_cost="0,5"), "max_cost"),
    _bad("max_cost of true", document(prompt="x", max_cost=True), "max_cost"),
    _bad("max_cost of a thousand digits", flat(prompt="x", max_cost="0." + "0" * 999 + "1"), "max_cost"),
    _bad("metadata that is text", flat(prompt="x", metadata="hello"), "metadata is not JSON"),
    _bad("metadata that is a list", flat(prompt="x", metadata="[1]"), "metadata must be a JSON object"),
    _bad("metadata as JSON in JSON", document(prompt="x", metadata="{}"), "metadata must be a JSON object"),
    _bad("version 2", flat(prompt="x", v="2"), "v '2'", "unsupported_version"),
    _bad("version 2 of something unreadable", flat(v="2", question="x"), "v '2'", "unsupported_version"),
    _bad("version 0", document(prompt="x", v=0), "v 0", "unsupported_version"),
    _bad("version 1.5", flat(prompt="x", v="1.5"), "v '1.5'", "unsupported_version"),
    _bad("version true", document(prompt="x", v=True), "v true", "unsupported_version"),
    _bad("an empty version", flat(prompt="x", v=""), "v ''", "unsupported_version"),
    _bad("too large a prompt", flat(prompt="x" * MAX_JOB_BYTES), "max_job_bytes", "payload_too_large"),
    _bad("too large, and no job", [b"u", b"x" * MAX_JOB_BYTES], "max_job_bytes", "payload_too_large"),
    _bad(
        "too large with many fields",
        [b"%d" % n for n in range(200_000)],
        "max_job_bytes",
        "payload_too_large",
    ),
]

MALFORMED = [*FORMS, *ASKED, *REST]
