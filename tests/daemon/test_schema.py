from __future__ import annotations

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from tests.daemon.accepted_jobs import ACCEPTED, Accepted
from tests.daemon.sample_replies import ANSWERED, CALLED, FAILED, FULL, LIMITED, PLAIN, fields
from theo_daemon.chat import _CHECKS, ROLES
from theo_daemon.entry import FIELDS, STRUCTURED
from theo_daemon.reply import Word, delta_fields, final_fields
from theo_daemon.schema import asyncapi, json_schemas
from theo_workers.messages import Attempt, Usage

SCHEMAS = json_schemas()


def check(value: Any, name: str, *, closed: bool = False) -> None:
    """Is `value` as the schema says, with all JSON inside its texts? `closed`: and has no other fields?"""
    _validator({"$ref": f"#/components/schemas/{name}"}).validate(value)
    described = SCHEMAS[name]["properties"]
    for field, text in value.items():
        if closed:
            assert field in described
        inside = described.get(field, {}).get("contentSchema")
        if inside is not None:
            _validator(inside).validate(json.loads(text))


def _validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**schema, "components": {"schemas": SCHEMAS}})


def entry(words: list[bytes]) -> tuple[dict[str, Any], str]:
    """The fields of a job as an object, and the name of its schema."""
    given = {
        name.decode(): value.decode("utf-8", "replace")
        for name, value in zip(words[::2], words[1::2], strict=True)
    }
    return given, "JobInOneField" if "job" in given else "JobFields"


REPLIES = [
    ("OkReply", final_fields(PLAIN, ANSWERED, queued_ms=5)),
    ("OkReply", final_fields(FULL, CALLED, queued_ms=5)),
    ("ErrorReply", final_fields(PLAIN, FAILED, queued_ms=5)),
    ("ErrorReply", final_fields(FULL, LIMITED, queued_ms=5)),
    ("DeltaReply", delta_fields(PLAIN, attempt=1, seq=0, text="he")),
    ("DeltaReply", delta_fields(FULL, attempt=1, seq=0, text="he")),
]


@pytest.mark.parametrize(("name", "words"), REPLIES)
def test_a_reply_is_as_its_schema_says(name: str, words: list[Word]) -> None:
    check(fields(words), name, closed=True)


@pytest.mark.parametrize("name", ["OkReply", "ErrorReply", "DeltaReply"])
def test_replies_have_every_field_of_the_schema(name: str) -> None:
    written = {field for schema, words in REPLIES if schema == name for field in fields(words)}
    added_by_the_finish_script = {"reply_error"} if name != "DeltaReply" else set()
    assert written | added_by_the_finish_script == set(SCHEMAS[name]["properties"])


@pytest.mark.parametrize(("name", "words"), REPLIES)
def test_what_a_bare_reply_has_is_what_the_schema_requires(name: str, words: list[Word]) -> None:
    for field in SCHEMAS[name]["required"]:
        less = fields(words)
        del less[field]
        with pytest.raises(jsonschema.ValidationError):
            check(less, name)


@pytest.mark.parametrize("good", ACCEPTED, ids=lambda good: good.why)
def test_an_accepted_job_is_as_its_schema_says(good: Accepted) -> None:
    given, name = entry(good.fields)
    check(given, name)


@pytest.mark.parametrize("name", ["JobFields", "JobDocument"])
def test_the_schemas_of_a_job_list_the_fields_of_the_decoder(name: str) -> None:
    assert set(SCHEMAS[name]["properties"]) == set(FIELDS)


def test_the_schema_of_a_flat_job_has_json_where_the_decoder_reads_json() -> None:
    described = SCHEMAS["JobFields"]["properties"]
    assert {name for name, schema in described.items() if "contentSchema" in schema} == STRUCTURED


def test_the_schema_of_params_lists_what_the_decoder_checks() -> None:
    assert set(SCHEMAS["Params"]["properties"]) == set(_CHECKS)
    assert set(SCHEMAS["ChatMessage"]["properties"]["role"]["enum"]) == set(ROLES)


def test_usage_and_attempts_have_the_fields_of_the_contract() -> None:
    assert set(SCHEMAS["Usage"]["properties"]) == set(Usage.__struct_fields__)
    assert set(SCHEMAS["Attempt"]["required"]) == set(Attempt.__struct_fields__)


@pytest.mark.parametrize(
    "broken",
    [
        {"prompt": "x", "messages": "[]"},
        {"model": "fast"},
        {"prompt": ""},
        {"prompt": "x", "cache": "never"},
        {"prompt": "x", "ttl_ms": "0"},
        {"prompt": "x", "tenant": "a b"},
        {"prompt": "x", "params": '{"n":2}'},
        {"prompt": "x", "params": '{"max_tokens":0}'},
        {"messages": '[{"role":"robot","content":"x"}]'},
        {"job": '{"prompt":5}'},
        {"job": '{"prompt":null}'},
        {"job": '{"prompt":"x","max_cost":-1}'},
    ],
)
def test_the_schemas_refuse_what_the_decoder_refuses(broken: dict[str, str]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(broken, "JobInOneField" if "job" in broken else "JobFields")


ERROR_CODES = {
    "invalid_job", "id_conflict", "unsupported_version", "payload_too_large", "unknown_model", "reply_to_not_allowed",
    "invalid_request", "context_length_exceeded", "content_filtered", "authentication_failed",
    "provider_quota_exhausted", "rate_limited", "provider_unavailable", "provider_timeout", "no_model_available",
    "budget_exceeded", "deadline_exceeded", "cancelled", "outcome_unknown", "delivery_limit_exceeded",
    "internal_error",
}  # fmt: skip


def test_error_codes_are_those_of_the_contract() -> None:
    assert set(SCHEMAS["ErrorReply"]["properties"]["error_code"]["enum"]) == ERROR_CODES


def test_every_schema_is_one() -> None:
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_the_asyncapi_document_is_json_and_every_reference_leads_somewhere() -> None:
    page = json.loads(json.dumps(asyncapi("{theo}", events={"circuit_opened": "it opened"})))
    references = list(_references(page))
    assert len(references) > 40
    for reference in references:
        place = page
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def test_the_channels_are_the_streams_of_the_contract_under_the_prefix() -> None:
    assert {name: channel["address"] for name, channel in asyncapi("p")["channels"].items()} == {
        "jobs": "p:jobs",
        "jobs_lane": "p:jobs:{lane}",
        "replies": "p:replies",
        "reply": "p:reply:{name}",
        "dead": "p:dead",
        "events": "p:events",
        "control": "p:control",
    }


def test_documented_events_are_listed() -> None:
    schemas = json_schemas({"circuit_opened": "it opened"})
    assert schemas["EventEntry"]["properties"]["event"]["oneOf"] == [
        {"const": "circuit_opened", "description": "it opened"}
    ]


def _references(page: Any) -> Any:
    if isinstance(page, dict):
        for name, value in page.items():
            if name == "$ref":
                yield value
            else:
                yield from _references(value)
    elif isinstance(page, list):
        for value in page:
            yield from _references(value)
