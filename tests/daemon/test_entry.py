from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.daemon.accepted_jobs import ACCEPTED, PUSHED_MS, Accepted
from tests.daemon.malformed_jobs import MALFORMED, MAX_JOB_BYTES, Malformed, document, flat, text
from theo_daemon.entry import FIELDS, decode, salvage
from theo_daemon.job import Delivery, EntryRef, Job
from theo_workers.errors import JobRefused, PayloadTooLarge

REF = EntryRef("theo:jobs", f"{PUSHED_MS}-0")


def delivered(fields: list[bytes]) -> Delivery:
    return Delivery(REF, "default", fields)


def job_of(fields: list[bytes]) -> Job:
    return decode(delivered(fields), max_job_bytes=MAX_JOB_BYTES)


def seen(job: Job, attribute: str) -> Any:
    match attribute:
        case "said":
            return [(message.role, message.content) for message in job.messages]
        case "metadata":
            return None if job.envelope.metadata is None else json.loads(bytes(job.envelope.metadata))
        case "id" | "reply_to" | "traceparent" | "tracestate":
            return getattr(job.envelope, attribute)
        case _:
            return getattr(job, attribute)


@pytest.mark.parametrize("bad", MALFORMED, ids=lambda bad: bad.why)
def test_refuses_a_malformed_job_with_its_code_and_the_name_of_the_trouble(bad: Malformed) -> None:
    with pytest.raises(JobRefused) as refused:
        job_of(bad.fields)
    assert refused.value.code == bad.code
    assert not refused.value.retryable
    assert bad.says in refused.value.detail
    assert len(refused.value.detail) < 300
    assert refused.value.detail.isprintable()


@pytest.mark.parametrize("good", ACCEPTED, ids=lambda good: good.why)
def test_takes_a_job_as_it_is_meant(good: Accepted) -> None:
    job = job_of(good.fields)
    assert {name: seen(job, name) for name in good.becomes} == good.becomes


def test_no_two_rows_of_the_tables_have_the_same_name() -> None:
    assert len(MALFORMED) >= 60
    for table in (MALFORMED, ACCEPTED):
        assert len({row.why for row in table}) == len(table)


def test_counts_the_whole_entry_and_takes_one_of_exactly_the_limit() -> None:
    fields = flat(prompt="hello", model="fast")
    size = len(b"promptmodelhellofast")
    assert decode(delivered(fields), max_job_bytes=size).model == "fast"
    with pytest.raises(PayloadTooLarge, match=f"{size} bytes"):
        decode(delivered(fields), max_job_bytes=size - 1)


def test_both_forms_of_a_job_are_the_same_job() -> None:
    metadata, params = {"a": 1, "b": [None]}, {"temperature": 0.5, "stop": ["x"]}
    plain = {"prompt": "hi", "model": "fast", "id": "7", "tenant": "t", "reply_to": "theo:reply:x"}
    assert job_of(document(**plain, metadata=metadata, params=params, ttl_ms=5, max_cost=1.5)) == job_of(
        flat(**plain, metadata=json.dumps(metadata), params=json.dumps(params), ttl_ms="5", max_cost="1.5")
    )


DETAIL = {"type": "reasoning.text", "text": "hm"}


@pytest.mark.parametrize(
    ("role", "told", "read"),
    [
        ("assistant", {"reasoning_content": "hm"}, {"reasoning_content": "hm"}),
        ("assistant", {"reasoning_details": [DETAIL]}, {"reasoning_details": [DETAIL]}),
        ("assistant", {"reasoning_content": "", "reasoning_details": []}, {}),
        ("assistant", {"reasoning_content": None, "reasoning_details": None}, {}),
        ("assistant", {"reasoning_content": {"a": 1}, "reasoning_details": "hm"}, {}),
        ("assistant", {"reasoning_details": [DETAIL, "hm"]}, {}),
        ("assistant", {"refusal": "no", "annotations": [], "audio": {"id": "a"}, "reasoning": "hm"}, {}),
        ("user", {"reasoning_content": "hm", "reasoning_details": [DETAIL]}, {}),
    ],
)
def test_of_an_assistants_reasoning_is_read_what_somebody_takes_back(
    role: str, told: dict[str, Any], read: dict[str, Any]
) -> None:
    job = job_of(document(messages=[{"role": role, "content": "a", **told}]))
    (message,) = job.messages
    assert msgspec.to_builtins(message) == {"role": role, "content": "a", **read}
    plain = job_of(document(messages=[{"role": role, "content": "a"}]))
    assert (job.content == plain.content) is (not read)


def test_system_and_prompt_are_not_the_content_of_the_same_messages() -> None:
    # Two jobs that a model cannot tell apart may have two keys; what they must not have is each other's fields.
    prompted = job_of(flat(prompt="x", system="s"))
    listed = job_of(flat(messages='[{"role":"system","content":"s"},{"role":"user","content":"x"}]'))
    assert prompted.messages == listed.messages
    assert prompted.content != listed.content


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (flat(prompt="x"), flat(prompt="x", params="{}", workflow="default", system="")),
        (flat(prompt="x", params='{"a":1,"b":2}'), flat(prompt="x", params=' {"b":2.0,"a":1}')),
        (
            flat(prompt="x", id="1", ttl_ms="5", cache="off"),
            flat(prompt="x", id="2", metadata="{}", stream="1"),
        ),
        (flat(prompt="é"), text('{"prompt":"\\u00e9"}')),
        (
            flat(messages='[{"role":"user","content":"x"}]'),
            document(messages=[{"content": "x", "role": "user", "name": None, "unknown": 1}]),
        ),
    ],
)
def test_jobs_that_ask_the_same_have_the_same_content(one: list[bytes], other: list[bytes]) -> None:
    assert job_of(one).content == job_of(other).content


@pytest.mark.parametrize(
    "other",
    [
        flat(prompt="y"),
        flat(prompt="x", system="s"),
        flat(prompt="x", tenant="t"),
        flat(prompt="x", workflow="w"),
        flat(prompt="x", params='{"seed":1}'),
    ],
)
def test_jobs_that_ask_otherwise_have_other_content(other: list[bytes]) -> None:
    assert job_of(flat(prompt="x")).content != job_of(other).content


NAMES = st.sampled_from([*(name.encode() for name in FIELDS), b"job", b"u"])
PRIMITIVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    PRIMITIVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner, max_size=4)
    ),
    max_leaves=10,
)
JSON = VALUES.map(lambda value: json.dumps(value).encode())
DOCUMENTS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6).map(
    lambda value: json.dumps(value).encode()
)
TORN = st.tuples(DOCUMENTS, st.integers(0, 200), st.binary(max_size=3)).map(
    lambda torn: torn[0][: torn[1]] + torn[2] + torn[0][torn[1] :]
)
FIELD = st.tuples(NAMES, st.binary(max_size=40) | JSON | DOCUMENTS | TORN)
FIELD_LISTS = st.lists(FIELD, max_size=5).map(lambda pairs: [word for pair in pairs for word in pair])


@given(FIELD_LISTS | DOCUMENTS.map(text) | TORN.map(text) | st.lists(st.binary(max_size=9), max_size=5))
@example([b"job"])
@example(text(b'{"id":"' + b'\\"' * 1000))
@example(text(b'{"metadata":{"a":' * 50_000))
def test_whatever_comes_is_a_job_or_a_refusal_and_its_envelope_can_be_read(fields: list[bytes]) -> None:
    envelope = salvage(delivered(fields))
    assert envelope.ref == REF
    assert envelope.id
    try:
        job = job_of(fields)
    except JobRefused:
        return
    assert envelope == job.envelope


ENVELOPE = {
    "id": "7",
    "reply_to": "theo:reply:x",
    "tenant": "acme",
    "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
    "metadata": {"a": {"b": [1, "}"]}},
}
AROUND = json.dumps(ENVELOPE)[1:-1]


@pytest.mark.parametrize(
    "fields",
    [
        flat(**{**ENVELOPE, "metadata": json.dumps(ENVELOPE["metadata"])}),  # type: ignore[arg-type]
        [*flat(**{**ENVELOPE, "metadata": json.dumps(ENVELOPE["metadata"])}), b"lonely"],  # type: ignore[arg-type]
        document(**ENVELOPE),
        document(**ENVELOPE, prompt="x", cache="never"),
        text("{" + AROUND + ',"prompt":NaN}'),
        text('{"prompt":NaN,' + AROUND + "}"),
        text("{" + AROUND + ',"prompt":"cut'),
        text('{"prompt":1e999,"u":"\\ud800",' + AROUND + "}"),
        text(b'{"prompt":"\xff",' + AROUND.encode() + b"}"),
        text('{"prompt":"a","prompt":"a",' + AROUND + "}"),
        text('{"u":' + "[" * 100_000 + "]" * 100_000 + "," + AROUND + "}"),
        text('{"u":{"reply_to":"theo:reply:wrong","id":"wrong"},' + AROUND + "}"),
        text('{"prompt":"\\"reply_to\\":\\"theo:reply:wrong\\"",' + AROUND + ",}"),
        text('{"reply\\u005fto":"theo:reply:x",' + AROUND.replace('"reply_to": "theo:reply:x", ', "") + ",}"),
        [*text("{" + AROUND + "}"), *flat(prompt="x")],
        [*document(**ENVELOPE), *flat(model="fast")],
    ],
)
def test_salvages_every_usable_part_of_a_broken_job(fields: list[bytes]) -> None:
    envelope = salvage(delivered(fields))
    assert (envelope.id, envelope.reply_to, envelope.tenant) == ("7", "theo:reply:x", "acme")
    assert envelope.traceparent == ENVELOPE["traceparent"]
    assert envelope.metadata is not None
    assert json.loads(bytes(envelope.metadata)) == ENVELOPE["metadata"]


@pytest.mark.parametrize(
    "fields",
    [
        [b"nothing", b"usable"],
        flat(id="", reply_to="", tenant="a b", traceparent="00", metadata="[]"),
        flat(id=b"\xff", reply_to=b"theo:reply:\xff", tenant=b"\xff", traceparent=b"\xff", metadata=b"\xff"),
        document(id=7, reply_to=None, tenant=["t"], traceparent={}, metadata="{}"),
        text('{"id":"\\ud800","reply_to":"theo:reply:\\ud800","metadata":{"a":NaN}}'),
        text('[{"id":"7","reply_to":"theo:reply:x","tenant":"t"}]'),
        text(b'{"id":"7' + b'\\"' * 400_000),  # quadratic, for a careless scanner
        text('"id": "7", "reply_to": "theo:reply:x"'),
        text('{"u":{"id":"7","reply_to":"theo:reply:x","tenant":"t","metadata":{}}'),
        text('{"reply_to" junk: "theo:reply:x", "id": junk "7"}'),
        [*flat(reply_to="theo:reply:x", id="1"), *flat(reply_to="theo:reply:y", id="2")],
        [*text('{"id":"1"}'), *text('{"id":"1"}')],
        text('{"reply_to":"theo:reply:x","reply_to":"theo:reply:y","metadata":{},"metadata":{}}'),
    ],
)
def test_salvages_nothing_that_is_not_certain(fields: list[bytes]) -> None:
    envelope = salvage(delivered(fields))
    assert envelope.id == REF.entry_id
    assert (envelope.reply_to, envelope.tenant, envelope.traceparent, envelope.metadata) == (None,) * 4
