"""Jobs that must be taken, in both forms, and what is made of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.daemon.malformed_jobs import document, flat, holding, nested, text

PUSHED_MS = 1_700_000_000_000  # the milliseconds of the entry id that tests give them
CHAT = '[{"role":"user","content":"hi"}]'
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


class Accepted(NamedTuple):
    why: str
    fields: list[bytes]
    becomes: dict[str, Any]  # attributes of the job, or of its envelope


ACCEPTED = [
    Accepted("the smallest job", flat(prompt="hi"), {
        "model": None, "workflow": "default", "cache": "use", "stream": False, "params": {}, "client_id": None,
        "tenant": "", "deadline_ms": None, "max_cost_nano": None, "on_unknown": None, "id": f"{PUSHED_MS}-0",
        "reply_to": None, "metadata": None, "traceparent": None, "lane": "default",
    }),
    Accepted("the smallest document", document(prompt="hi"), {"model": None, "said": [("user", "hi")]}),
    Accepted("messages", flat(messages=CHAT), {"said": [("user", "hi")]}),
    Accepted("a system prompt", flat(prompt="hi", system="Be brief."), {
        "said": [("system", "Be brief."), ("user", "hi")],
    }),
    Accepted("an empty system prompt", flat(prompt="hi", system=""), {"said": [("user", "hi")]}),
    Accepted("a system prompt before messages", flat(messages=CHAT, system="S"), {
        "said": [("system", "S"), ("user", "hi")],
    }),
    Accepted("unknown fields", flat(prompt="hi", colour="red", bytes=b"\xff"), {"said": [("user", "hi")]}),
    Accepted("an unknown field beside job", [*flat(colour="red"), *document(prompt="hi", colour=1)], {}),
    Accepted("white space in a document", text(' {\n"prompt" : "hi"\t}\r\n '), {"said": [("user", "hi")]}),
    Accepted("colons in texts", document(prompt="a: b:: c", metadata={"u:rl": "http://x:80/"}), {
        "said": [("user", "a: b:: c")],
    }),
    Accepted("escaped colons", text('{"prompt":"\\u003a","metadata":{"a":":"}}'), {"said": [("user", ":")]}),
    Accepted("a pair of surrogates", text('{"prompt":"\\ud83d\\ude00"}'), {"said": [("user", "😀")]}),
    Accepted("any character", flat(prompt="\x00\u2028é😀"), {"said": [("user", "\x00\u2028é😀")]}),
    Accepted("nesting of 64", flat(prompt="hi", metadata=holding(nested(63))), {}),
    Accepted("many brackets, none deep", document(prompt="hi", metadata={"a": [[]] * 100}), {}),
    Accepted("a large integer", flat(prompt="hi", metadata=holding("1" + "0" * 308)), {}),
    Accepted("many digits in a text", flat(prompt="hi", metadata=holding('"' + "9" * 400 + '"')), {}),
    Accepted("an id", flat(prompt="hi", id="order 7 (é)"), {"id": "order 7 (é)", "client_id": "order 7 (é)"}),
    Accepted("the longest id", flat(prompt="hi", id="i" * 128), {"client_id": "i" * 128}),
    Accepted("too long an id", flat(prompt="hi", id="i" * 129), {"client_id": None, "id": f"{PUSHED_MS}-0"}),
    Accepted("an empty id", flat(prompt="hi", id=""), {"client_id": None, "id": f"{PUSHED_MS}-0"}),
    Accepted("an id in two lines", flat(prompt="hi", id="a\nb"), {"client_id": None, "id": f"{PUSHED_MS}-0"}),
    Accepted("an id that is no UTF-8", flat(prompt="hi", id=b"\xff"), {"client_id": None}),
    Accepted("an id that is a number", document(prompt="hi", id=7), {"client_id": None, "id": f"{PUSHED_MS}-0"}),
    Accepted("a tenant", flat(prompt="hi", tenant="a.B_c:d-9"), {"tenant": "a.B_c:d-9"}),
    Accepted("a workflow", flat(prompt="hi", workflow="w" * 64), {"workflow": "w" * 64}),
    Accepted("a reply_to", flat(prompt="hi", reply_to="theo:reply:x y/é"), {"reply_to": "theo:reply:x y/é"}),
    Accepted("a ttl", flat(prompt="hi", ttl_ms="5000"), {"deadline_ms": PUSHED_MS + 5000}),
    Accepted("a ttl as a number", document(prompt="hi", ttl_ms=5000), {"deadline_ms": PUSHED_MS + 5000}),
    Accepted("a ttl as text in a document", document(prompt="hi", ttl_ms="5000"), {
        "deadline_ms": PUSHED_MS + 5000,
    }),
    Accepted("a ttl with a point", text('{"prompt":"hi","ttl_ms":5e3}'), {"deadline_ms": PUSHED_MS + 5000}),
    Accepted("a deadline", flat(prompt="hi", deadline_ms=str(PUSHED_MS + 1)), {"deadline_ms": PUSHED_MS + 1}),
    Accepted("the earlier of both, the ttl", flat(prompt="hi", ttl_ms="5", deadline_ms=str(PUSHED_MS + 9)), {
        "deadline_ms": PUSHED_MS + 5,
    }),
    Accepted("the earlier of both, the deadline", flat(prompt="hi", ttl_ms="9", deadline_ms=str(PUSHED_MS + 5)), {
        "deadline_ms": PUSHED_MS + 5,
    }),
    Accepted("a deadline long past", flat(prompt="hi", deadline_ms="1"), {"deadline_ms": 1}),
    Accepted("a ttl without an end", flat(prompt="hi", ttl_ms="9" * 300), {"deadline_ms": 2**53 - 1}),
    Accepted("cache refresh", flat(prompt="hi", cache="refresh"), {"cache": "refresh"}),
    Accepted("cache off", document(prompt="hi", cache="off"), {"cache": "off"}),
    Accepted("a stream", flat(prompt="hi", stream="1"), {"stream": True}),
    Accepted("no stream", flat(prompt="hi", stream="0"), {"stream": False}),
    Accepted("a stream as a number", document(prompt="hi", stream=1), {"stream": True}),
    Accepted("a stream as true", document(prompt="hi", stream=True), {"stream": True}),
    Accepted("no stream as false", document(prompt="hi", stream=False), {"stream": False}),
    Accepted("a stream as text in a document", document(prompt="hi", stream="1"), {"stream": True}),
    Accepted("a ceiling", flat(prompt="hi", max_cost="0.05"), {"max_cost_nano": 50_000_000}),
    Accepted("a ceiling of nothing", flat(prompt="hi", max_cost="0"), {"max_cost_nano": 0}),
    Accepted("a ceiling as a number", document(prompt="hi", max_cost=0.05), {"max_cost_nano": 50_000_000}),
    Accepted("a ceiling in powers of ten", flat(prompt="hi", max_cost="5e-2"), {"max_cost_nano": 50_000_000}),
    Accepted("a ceiling as good as none", flat(prompt="hi", max_cost="1e300"), {"max_cost_nano": 2**63 - 1}),
    Accepted("on_unknown", flat(prompt="hi", on_unknown="fail"), {"on_unknown": "fail"}),
    Accepted("version 1", flat(prompt="hi", v="1"), {}),
    Accepted("version 1 as a number", document(prompt="hi", v=1), {}),
    Accepted("params", flat(prompt="hi", params='{"temperature":0,"max_tokens":5,"stop":"x","u":[1]}'), {
        "params": {"temperature": 0, "max_tokens": 5, "stop": "x", "u": [1]},
    }),
    Accepted("params in a document", document(prompt="hi", params={"stop": ["a"], "seed": -1}), {
        "params": {"stop": ["a"], "seed": -1},
    }),
    Accepted("params that are null", document(prompt="hi", params={"stop": None, "seed": 1, "u": None}), {
        "params": {"seed": 1},
    }),
    Accepted("whole floats where an integer is meant", flat(prompt="hi", params='{"max_tokens":1e2}'), {
        "params": {"max_tokens": 100},
    }),
    Accepted("tools", document(prompt="hi", params={"tools": [{"type": "function"}], "tool_choice": "auto"}), {
        "params": {"tools": [{"type": "function"}], "tool_choice": "auto"},
    }),
    Accepted("metadata", flat(prompt="hi", metadata='{ "a": [1, "é"] }'), {"metadata": {"a": [1, "é"]}}),
    Accepted("metadata in a document", document(prompt="hi", metadata={"a": {}}), {"metadata": {"a": {}}}),
    Accepted("trace context", flat(
        prompt="hi", traceparent=f"00-{'a' * 32}-{'b' * 16}-01", tracestate="k=v"
    ), {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "k=v"}),
    Accepted("trace context to come", flat(prompt="hi", traceparent=f"01-{'a' * 32}-{'b' * 16}-01-more"), {
        "traceparent": f"01-{'a' * 32}-{'b' * 16}-01-more",
    }),
    Accepted("invalid trace context", flat(prompt="hi", traceparent="00-abc", tracestate="k=v"), {
        "traceparent": None, "tracestate": None,
    }),
    Accepted("trace context of zeros", flat(prompt="hi", traceparent=f"00-{'0' * 32}-{'b' * 16}-01"), {
        "traceparent": None,
    }),
    Accepted("too long a trace context", flat(prompt="hi", traceparent=f"00-{'a' * 32}-{'b' * 16}-01-x"), {
        "traceparent": None,
    }),
    Accepted("a trace state alone", flat(prompt="hi", tracestate="k=v"), {"tracestate": None}),
    Accepted("a trace context that is a number", document(prompt="hi", traceparent=5), {"traceparent": None}),
    Accepted("nulls in a document", document(prompt="hi", messages=None, model=None, id=None, v=None, stream=None), {
        "model": None, "stream": False,
    }),
    Accepted("parts", document(messages=[{"role": "user", "content": [
        {"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "https://x/"}}, {"type": "new"},
    ]}]), {}),
    Accepted("a talk with tools", document(messages=[
        {"role": "developer", "content": "d"},
        {"role": "user", "content": "x", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {"role": "assistant", "content": "ok", "tool_calls": [], "refusal": None},
    ]), {"said": [("developer", "d"), ("user", "x"), ("assistant", None), ("tool", "42"), ("assistant", "ok")]}),
    Accepted("a tool call of another kind", document(messages=[
        {"role": "assistant", "tool_calls": [{"id": "c1", "type": "custom", "custom": {}}]},
    ]), {}),
]  # fmt: skip
