"""What cannot be read is refused one by one, and holds up nobody."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from tests.daemon.malformed_jobs import MALFORMED
from tests.e2e.processes import Fleet

pytestmark = pytest.mark.e2e


def test_every_malformed_job_gets_its_one_refusal_and_good_ones_their_answer(fleet: Fleet) -> None:
    fleet.start().wait_ready()
    raw: Any = redis.Redis.from_url(fleet.url)
    bad: dict[str, int] = {}
    good: list[str] = []
    for number, job in enumerate(MALFORMED):
        bad[raw.execute_command("XADD", fleet.jobs_key(), "*", *job.fields).decode()] = number
        if number % 5 == 0:
            good.append(fleet.push(prompt=f"good {number}"))
    for reply in fleet.answers(good, 10):
        assert (reply["status"], int(reply["queued_ms"]) < 5000) == ("ok", True)
    wrong = []
    for entry, reply in zip(bad, fleet.answers(bad, 10), strict=True):
        job = MALFORMED[bad[entry]]
        if (reply["status"], reply["error_code"], reply["error_retryable"]) != ("error", job.code, "0"):
            wrong.append((job.why, reply))
        if job.says not in reply["error_message"]:
            wrong.append((job.why, reply))
    assert wrong == []
    fleet.settled()
    assert len(fleet.provider.calls) == len(good)
    dead = {fields[b"dead_entry_id"].decode(): fields for _, fields in raw.xrange(f"{fleet.prefix}:dead")}
    for entry, number in bad.items():
        job = MALFORMED[number]
        if job.code in {"invalid_job", "payload_too_large"}:
            letter = dead.pop(entry)
            assert letter[b"dead_code"].decode() == job.code
            assert letter[b"dead_stream"].decode() == fleet.jobs_key()
            names = dict(zip(job.fields[::2], job.fields[1::2], strict=True))
            kept = {name: value for name, value in letter.items() if not name.startswith(b"dead_")}
            if job.code == "invalid_job":
                assert kept == names, job.why  # of a field given twice, the client sees one
            else:
                assert all(len(value) <= 1100 for value in kept.values()), job.why
    assert dead == {}, [MALFORMED[bad[entry]].why for entry in dead]
    raw.close()


def test_malformed_jobs_answer_on_their_own_reply_stream_when_it_can_be_read(fleet: Fleet) -> None:
    fleet.start().wait_ready()
    entry = fleet.push(prompt="x", ttl_ms="soon", id="mine", reply_to=f"{fleet.prefix}:reply:me")
    (reply,) = fleet.answers([entry], key="reply:me")
    assert (reply["error_code"], reply["id"]) == ("invalid_job", "mine")
    assert fleet.entries("replies") == []
