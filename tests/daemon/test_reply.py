from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.daemon.sample_replies import ANSWER, ANSWERED, CALLED, FAILED, FULL, LIMITED, PLAIN, fields
from theo_daemon.job import Answered, JobOutcome
from theo_daemon.reply import clean_text, decode_outcome, delta_fields, encode_outcome, final_fields

HEAD = {"v": "1", "id": "7", "entry_id": "1700000000000-0", "job_stream": "theo:jobs"}
USAGE = {
    "prompt_tokens": 12, "completion_tokens": 3, "cached_tokens": 4, "cache_write_tokens": 0, "reasoning_tokens": 0,
    "estimated": False,
}  # fmt: skip


def test_an_answer_has_the_fields_of_the_contract() -> None:
    reply = fields(final_fields(PLAIN, ANSWERED, queued_ms=5))
    assert json.loads(reply.pop("usage")) == USAGE
    assert json.loads(reply.pop("attempts")) == [
        {
            "model": "fast", "provider": "openai", "outcome": "ok", "status_code": 200, "latency_ms": 12.5,
            "cost": 0.25, "error_code": None,
        }
    ]  # fmt: skip
    assert reply == HEAD | {
        "status": "ok", "final": "1", "model": "fast", "provider": "openai", "output": "hello",
        "finish_reason": "stop", "latency_ms": "12.346", "queued_ms": "5", "cost": "0.25", "cache_hit": "0",
        "coalesced": "0", "prompt_tokens": "12", "completion_tokens": "3",
    }  # fmt: skip


def test_an_error_has_only_the_fields_that_are_known() -> None:
    assert fields(final_fields(PLAIN, FAILED, queued_ms=5)) == HEAD | {
        "status": "error", "final": "1", "error_code": "invalid_job", "error_retryable": "0", "cost": "0",
        "error_message": "the job has neither prompt nor messages",
    }  # fmt: skip
    reply = fields(final_fields(PLAIN, LIMITED, queued_ms=5))
    assert len(json.loads(reply.pop("attempts"))) == 1
    assert reply == HEAD | {
        "status": "error", "final": "1", "error_code": "rate_limited", "error_retryable": "1", "cost": "0.000042",
        "error_message": LIMITED.message, "error_provider": "openai", "error_status_code": "429",
        "retry_after_ms": "1500",
    }  # fmt: skip


def test_a_delta_has_its_attempt_and_its_place() -> None:
    assert fields(delta_fields(PLAIN, attempt=2, seq=0, text="he")) == HEAD | {
        "status": "delta", "final": "0", "attempt": "2", "seq": "0", "delta": "he",
    }  # fmt: skip


@pytest.mark.parametrize("outcome", [ANSWERED, FAILED])
def test_what_the_job_brought_comes_back(outcome: JobOutcome) -> None:
    reply = fields(final_fields(FULL, outcome, queued_ms=5))
    assert (reply["tenant"], reply["traceparent"]) == (FULL.tenant, FULL.traceparent)
    assert reply["metadata"] == '{"a":"é"}'
    assert "tracestate" not in reply


def test_a_delta_brings_the_tenant_but_no_metadata() -> None:
    reply = fields(delta_fields(FULL, attempt=1, seq=0, text=""))
    assert reply["tenant"] == "acme"
    assert "metadata" not in reply


@pytest.mark.parametrize(("hit", "coalesced"), [(True, False), (False, True)])
def test_a_shared_answer_says_so_and_costs_nothing(hit: bool, coalesced: bool) -> None:
    shared = Answered(answer=ANSWER, cache_hit=hit, coalesced=coalesced)
    reply = fields(final_fields(PLAIN, shared, queued_ms=0))
    assert (reply["cache_hit"], reply["coalesced"]) == (str(int(hit)), str(int(coalesced)))
    assert (reply["cost"], reply["attempts"], reply["output"]) == ("0", "[]", "hello")


@pytest.mark.parametrize(
    ("latency_ms", "written"), [(0.0, "0"), (100.0, "100"), (0.0004, "0"), (1.5, "1.5"), (1e7, "10000000")]
)
def test_milliseconds_have_at_most_three_decimals(latency_ms: float, written: str) -> None:
    answered = replace(ANSWERED, answer=replace(ANSWER, latency_ms=latency_ms))
    assert fields(final_fields(PLAIN, answered, queued_ms=0))["latency_ms"] == written


@pytest.mark.parametrize("outcome", [ANSWERED, CALLED, FAILED, LIMITED, replace(ANSWERED, remembered=True)])
def test_an_outcome_that_was_kept_makes_the_same_reply(outcome: JobOutcome) -> None:
    kept = encode_outcome(outcome)
    again = decode_outcome(kept)
    assert type(again) is type(outcome)
    assert encode_outcome(again) == kept
    assert final_fields(FULL, again, queued_ms=9) == final_fields(FULL, outcome, queued_ms=9)


def test_tool_calls_are_in_the_reply() -> None:
    reply = fields(final_fields(PLAIN, CALLED, queued_ms=0))
    assert json.loads(reply["tool_calls"]) == [{"id": "c", "type": "function"}]
    assert reply["finish_reason"] == "tool_calls"


ANY_TEXT = st.text(st.characters())  # lone surrogates as well, unlike st.text() by itself


@given(ANY_TEXT)
def test_no_text_of_a_model_or_provider_keeps_a_reply_from_being_written(text: str) -> None:
    answered: Any = replace(ANSWERED, answer=replace(ANSWER, output=text))
    failed: Any = replace(FAILED, message=text)
    for outcome, name in ((answered, "output"), (failed, "error_message")):
        reply = fields(final_fields(PLAIN, outcome, queued_ms=0))
        assert reply[name] == clean_text(text)
        assert fields(final_fields(PLAIN, decode_outcome(encode_outcome(outcome)), queued_ms=0)) == reply
    assert fields(delta_fields(PLAIN, attempt=1, seq=0, text=text))["delta"] == clean_text(text)


@given(ANY_TEXT)
def test_clean_text_changes_nothing_that_utf8_can_carry(text: str) -> None:
    cleaned = clean_text(text)
    cleaned.encode()
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert cleaned == text


def test_clean_text_joins_the_halves_of_a_pair() -> None:
    assert clean_text("a\ud83d\ude00b\ud83dc\ude00") == "a😀b\ufffdc\ufffd"
