"""The publisher on a real server, also one that is killed and comes back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.doubles import RecordedEvents, running, until
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.job import EntryRef, Envelope, Failed, JobOutcome
from theo_daemon.keys import Keys
from theo_daemon.ports import DeadLetter, Finish
from theo_daemon.publisher import ReplyBounds, StreamPublisher
from theo_daemon.redis_link import RedisLink
from theo_workers.clock import SystemClock

GROUP = "theo"
FAILED = Failed(code="invalid_job", message="no", retryable=False)


def final_fields(envelope: Envelope, outcome: JobOutcome, *, queued_ms: int) -> Sequence[str | bytes]:
    assert isinstance(outcome, Failed)
    return [
        "id",
        envelope.id,
        "entry_id",
        envelope.ref.entry_id,
        "final",
        "1",
        "error_message",
        outcome.message,
    ]


def delta_fields(envelope: Envelope, *, attempt: int, seq: int, text: str) -> Sequence[str | bytes]:
    return ["id", envelope.id, "final", "0", "seq", str(seq), "delta", text]


class Desk:
    """A publisher, and a job stream whose entries it ends."""

    def __init__(self, link: RedisLink, keys: Keys, **bounds: Any) -> None:
        self.keys, self.stream, self.events = keys, keys.jobs(), RecordedEvents()
        self.finishing, self.queries, self.outside = link.wire(), link.wire(), link.wire()
        self.publisher = StreamPublisher(
            wire=self.finishing,
            queries=self.queries,
            keys=keys,
            group=GROUP,
            bounds=ReplyBounds(default_reply=keys.replies, **bounds),
            final_fields=final_fields,
            delta_fields=delta_fields,
            now_ms=lambda: 1_700_000_000_000,
            events=self.events,
            clock=SystemClock(),
            rng=random.Random(1),
        )

    async def jobs(self, count: int) -> list[Envelope]:
        """Jobs that are pushed, read and pending."""
        await self.outside.ask_all(
            [
                ("XGROUP", "CREATE", self.stream, GROUP, "0", "MKSTREAM"),
                *[("XADD", self.stream, "*", "prompt", "hi")] * count,
            ]
        )
        read = await self.outside.ask("XREADGROUP", "GROUP", GROUP, "me", "STREAMS", self.stream, ">")
        refs = [EntryRef(self.stream, entry_id.decode()) for entry_id, _ in read[0][1]]
        return [Envelope(ref=ref, id=f"job-{number}") for number, ref in enumerate(refs)]

    def finish(self, envelope: Envelope, **more: Any) -> asyncio.Future[Finish]:
        return self.publisher.finish(envelope, FAILED, queued_ms=1, **more)

    async def replies(self, key: str | None = None) -> list[dict[str, str]]:
        rows = await self.outside.ask("XRANGE", key or self.keys.replies, "-", "+")
        texts = [[word.decode("utf-8", "replace") for word in words] for _, words in rows]
        return [dict(zip(words[::2], words[1::2], strict=True)) for words in texts]

    async def close(self) -> None:
        for wire in (self.finishing, self.queries, self.outside):
            await wire.close()


@pytest.fixture
async def desk(link: RedisLink, keys: Keys) -> AsyncIterator[Desk]:
    desk = Desk(link, keys)
    async with running(desk.publisher.run()):
        yield desk
    await desk.close()


async def test_what_ends_in_one_tick_is_one_call(desk: Desk) -> None:
    jobs = await desk.jobs(100)
    before = await desk.outside.ask("INFO", "commandstats")
    found = await asyncio.gather(*[desk.finish(job) for job in jobs])
    after = await desk.outside.ask("INFO", "commandstats")
    assert found == [Finish.PUBLISHED] * 100
    assert [reply["id"] for reply in await desk.replies()] == [job.id for job in jobs]
    assert (
        1 <= _calls(after, "eval") - _calls(before, "eval") <= 2
    )  # EVALSHA, and EVAL to a server that is new
    assert (desk.publisher.pending, desk.publisher.trouble) == (0, None)


async def test_each_job_learns_what_was_found(desk: Desk) -> None:
    job, again = (await desk.jobs(1))[0], Envelope(ref=EntryRef(desk.stream, "1-1"), id="gone")
    assert await desk.finish(job) is Finish.PUBLISHED
    assert await desk.finish(job) is Finish.ALREADY
    assert await desk.finish(again) is Finish.ORPHAN
    waiting = EntryRef(desk.stream, (await desk.outside.ask("XADD", desk.stream, "*", "a", "b")).decode())
    assert await desk.finish(Envelope(ref=waiting, id="w")) is Finish.NOT_PENDING


async def test_deltas_precede_the_final_reply_on_the_chosen_stream(desk: Desk) -> None:
    ref, reply_to = (await desk.jobs(1))[0].ref, f"{desk.keys.reply_prefix}me"
    job = Envelope(ref=ref, id="j", reply_to=reply_to)
    for seq in range(300):
        desk.publisher.delta(job, attempt=1, seq=seq, text="x")
    assert await desk.finish(job) is Finish.PUBLISHED
    replies = await desk.replies(reply_to)
    assert [reply.get("seq") for reply in replies] == [*map(str, range(300)), None]
    assert await desk.replies() == []


async def test_a_job_whose_deltas_wait_for_redis_too_long_gets_no_more_of_them_and_leaves_no_gap(
    link: RedisLink, keys: Keys
) -> None:
    desk = Desk(link, keys)
    fast, other = await desk.jobs(2)
    for seq in range(3):
        desk.publisher.delta(fast, attempt=1, seq=seq, text="x" * 3_000_000)
    desk.publisher.delta(other, attempt=1, seq=0, text="y")
    async with running(desk.publisher.run()):
        assert await desk.finish(other) is Finish.PUBLISHED
        assert await desk.finish(fast) is Finish.PUBLISHED
        desk.publisher.delta(other, attempt=1, seq=1, text="x" * 9_000_000)  # nothing waits: it goes
        last = (await desk.jobs(1))[0]
        assert await desk.finish(last) is Finish.PUBLISHED
    told = [(reply["id"], reply.get("seq")) for reply in await desk.replies()]
    assert told == [
        *((fast.id, "0"), (fast.id, "1"), (other.id, "0"), (other.id, None), (fast.id, None)),
        *((last.id, None),),
    ]


async def test_reply_streams_are_bounded_in_length_and_time(link: RedisLink, keys: Keys) -> None:
    desk = Desk(link, keys, max_len=100, ttl_s=60.0)
    async with running(desk.publisher.run()):
        await asyncio.gather(*[desk.finish(job) for job in await desk.jobs(1_000)])
        assert 100 <= await desk.outside.ask("XLEN", keys.replies) < 300
        assert 50_000 < await desk.outside.ask("PTTL", keys.replies) <= 60_000
        await desk.outside.ask("PEXPIRE", keys.replies, 1_000)
        await desk.finish((await desk.jobs(1))[0])
        assert await desk.outside.ask("PTTL", keys.replies) > 50_000  # slides with each reply
    await desk.close()


async def test_a_dead_letter_carries_the_bytes_that_came_and_why(desk: Desk) -> None:
    (job,) = await desk.jobs(1)
    dead = DeadLetter(
        fields=[b"job", b"\xff\x00", b"job", b"{"], reason="twice", code="invalid_job", deliveries=2
    )
    assert await desk.finish(job, dead=dead) is Finish.PUBLISHED
    ((_, words),) = await desk.outside.ask("XRANGE", desk.keys.dead, "-", "+")
    assert words[:4] == [b"job", b"\xff\x00", b"job", b"{"]
    about = dict(zip(words[4::2], words[5::2], strict=True))
    assert about == {
        b"dead_reason": b"twice",
        b"dead_code": b"invalid_job",
        b"dead_deliveries": b"2",
        b"dead_entry_id": job.ref.entry_id.encode(),
        b"dead_stream": desk.stream.encode(),
        b"dead_at_ms": b"1700000000000",
    }


async def test_a_dead_letter_with_absurdly_many_fields_is_cut_and_says_so(desk: Desk) -> None:
    (job,) = await desk.jobs(1)
    dead = DeadLetter(fields=[b"a", b"b"] * 20_000, reason="x", code="invalid_job")
    assert await desk.finish(job, dead=dead) is Finish.PUBLISHED
    ((_, words),) = await desk.outside.ask("XRANGE", desk.keys.dead, "-", "+")
    fields = dict(zip(words[::2], words[1::2], strict=True))
    kept = sum(1 for name in words[::2] if name == b"a")
    assert kept + int(fields[b"dead_fields_cut"]) == 20_000
    assert fields[b"dead_code"] == b"invalid_job"


async def test_a_lone_surrogate_spoils_its_character_and_no_other_reply(desk: Desk) -> None:
    one, two = await desk.jobs(2)
    odd = Failed(code="internal_error", message="a\ud800b", retryable=True)
    found = [desk.publisher.finish(one, odd, queued_ms=0), desk.finish(two)]
    assert await asyncio.gather(*found) == [Finish.PUBLISHED] * 2
    assert [reply["error_message"] for reply in await desk.replies()] == ["a?b", "no"]


async def test_names_the_reply_keys_of_another_type(desk: Desk) -> None:
    stream, text, new = (f"{desk.keys.reply_prefix}{name}" for name in ("stream", "text", "new"))
    await desk.outside.ask_all([("XADD", stream, "*", "a", "b"), ("SET", text, "x")])
    assert await desk.publisher.unusable([stream, text, new, text]) == {text}
    assert await desk.publisher.unusable([]) == frozenset()
    assert await desk.publisher.unusable([text]) == {text}
    await desk.outside.ask("DEL", text)
    assert await desk.publisher.unusable([text]) == frozenset()  # only what is good is remembered


async def test_an_entry_that_redis_has_not_any_more_has_vanished(
    desk: Desk, own_valkey: EmbeddedValkey
) -> None:
    (envelope,) = await desk.jobs(1)
    assert not await desk.publisher.vanished(envelope.ref)
    await desk.outside.ask("DEL", envelope.ref.stream)
    assert await desk.publisher.vanished(envelope.ref)
    elsewhere = Desk(RedisLink(own_valkey.url), Keys("x"))
    own_valkey.kill()
    assert not await elsewhere.publisher.vanished(envelope.ref)  # nobody can say
    await elsewhere.close()


async def test_an_entry_is_answered_once_its_final_reply_is_out(
    desk: Desk, own_valkey: EmbeddedValkey
) -> None:
    ended, other = await desk.jobs(2)
    assert await desk.publisher.answered(ended.ref) is False
    await desk.finish(ended)
    assert await desk.publisher.answered(ended.ref) is True
    assert await desk.publisher.answered(other.ref) is False
    elsewhere = Desk(RedisLink(own_valkey.url), Keys("x"))
    own_valkey.kill()
    assert await elsewhere.publisher.answered(ended.ref) is None  # nobody can say
    await elsewhere.close()


async def test_a_refused_reply_is_kept_without_holding_up_the_others(desk: Desk) -> None:
    stuck, *others = await desk.jobs(3)
    await desk.outside.ask("SET", desk.keys.replies, "not a stream")
    refused = desk.finish(stuck)
    chosen = [Envelope(ref=job.ref, id=job.id, reply_to=f"{desk.keys.reply_prefix}x") for job in others]
    assert await asyncio.gather(*map(desk.finish, chosen)) == [Finish.PUBLISHED] * 2
    assert (refused.done(), desk.publisher.pending, desk.publisher.trouble) == (False, 1, None)
    await desk.outside.ask("DEL", desk.keys.replies)
    assert await asyncio.wait_for(refused, 10) is Finish.PUBLISHED
    assert desk.publisher.pending == 0
    assert [name for name in desk.events.names if name.startswith("publish")] == [
        "publish_refused",
        "publish_back",
    ]


async def test_large_replies_do_not_go_in_one_call(desk: Desk) -> None:
    large = Failed(code="internal_error", message="x" * 1_500_000, retryable=False)
    before = await desk.outside.ask("INFO", "commandstats")
    found = [desk.publisher.finish(job, large, queued_ms=0) for job in await desk.jobs(8)]
    assert set(await asyncio.gather(*found)) == {Finish.PUBLISHED}
    after = await desk.outside.ask("INFO", "commandstats")
    assert 4 <= _calls(after, "eval") - _calls(before, "eval") <= 5  # two of them fit into one call


async def test_stop_returns_when_everything_is_published(link: RedisLink, keys: Keys) -> None:
    desk = Desk(link, keys)
    answers = [desk.finish(job) for job in await desk.jobs(500)]
    desk.publisher.stop()
    await asyncio.wait_for(desk.publisher.run(), 10)
    assert all(answer.result() is Finish.PUBLISHED for answer in answers)
    await desk.close()


async def test_a_killed_and_restarted_server_gets_every_reply_once(
    own_valkey: EmbeddedValkey, keys: Keys
) -> None:
    desk = Desk(RedisLink(own_valkey.url), keys)
    await desk.outside.ask("CONFIG", "SET", "appendfsync", "always")
    jobs = await desk.jobs(400)
    async with running(desk.publisher.run()):
        early = [desk.finish(job) for job in jobs[:200]]
        await early[0]
        own_valkey.kill()
        late = [desk.finish(job) for job in jobs[200:]]
        desk.publisher.delta(jobs[-1], attempt=1, seq=0, text="lost")
        await until(lambda: "publish_stalled" in desk.events.names)
        assert (desk.publisher.trouble, late[-1].done()) == ("ConnectionError", False)
        own_valkey.start()
        desk.outside = RedisLink(own_valkey.url).wire()
        found = await asyncio.wait_for(asyncio.gather(*early, *late), 20)
    assert set(found) == {Finish.PUBLISHED}
    assert sorted(reply["id"] for reply in await desk.replies()) == sorted(job.id for job in jobs)
    assert (await desk.outside.ask("XPENDING", desk.stream, GROUP))[0] == 0
    await desk.close()


async def test_a_server_that_became_a_replica_is_left(own_valkey: EmbeddedValkey, keys: Keys) -> None:
    desk = Desk(RedisLink(own_valkey.url), keys)
    (job,) = await desk.jobs(1)
    deposed = await desk.finishing.ask("CLIENT", "ID")
    await desk.outside.ask("REPLICAOF", "127.0.0.1", "1")
    async with running(desk.publisher.run()):
        answer = desk.finish(job)
        await until(lambda: "publish_refused" in desk.events.names)
        await desk.outside.ask("REPLICAOF", "NO", "ONE")
        assert await asyncio.wait_for(answer, 10) is Finish.PUBLISHED
        assert await desk.finishing.ask("CLIENT", "ID") != deposed
    await desk.close()


async def test_a_lost_answer_does_not_make_a_second_reply(
    link: RedisLink, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(link, keys)
    jobs = await desk.jobs(50)
    calls = losing_the_first_answer(desk, monkeypatch)
    async with running(desk.publisher.run()):
        desk.publisher.delta(jobs[0], attempt=1, seq=0, text="a")
        found = await asyncio.gather(*[desk.finish(job) for job in jobs])
    assert (found, len(calls)) == ([Finish.PUBLISHED] * 50, 2)
    finals = [reply["id"] for reply in await desk.replies() if reply["final"] == "1"]
    assert finals == [job.id for job in jobs]
    assert not desk.publisher._muted  # nothing is remembered of a job that is over
    await desk.close()


async def test_deltas_that_may_have_been_published_are_not_repeated_nor_followed_by_others(
    link: RedisLink, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(link, keys)
    one, two = await desk.jobs(2)
    losing_the_first_answer(desk, monkeypatch)
    async with running(desk.publisher.run()):
        desk.publisher.delta(one, attempt=1, seq=0, text="a")
        await until(lambda: "publish_stalled" in desk.events.names)
        desk.publisher.delta(one, attempt=1, seq=1, text="b")
        assert await desk.finish(one) is Finish.PUBLISHED
        desk.publisher.delta(two, attempt=1, seq=0, text="c")
        assert await desk.finish(two) is Finish.PUBLISHED
    assert [(reply["id"], reply.get("delta")) for reply in await desk.replies()] == [
        *((one.id, "a"), (one.id, None)),
        *((two.id, "c"), (two.id, None)),
    ]
    await desk.close()


async def test_after_a_delta_that_redis_refused_the_job_gets_no_more_of_them(
    own_valkey: EmbeddedValkey, keys: Keys
) -> None:
    desk = Desk(RedisLink(own_valkey.url), keys)
    cut, ends, other = await desk.jobs(3)
    for job in (cut, ends):
        desk.publisher.delta(job, attempt=1, seq=0, text="a")
    await desk.outside.ask("CONFIG", "SET", "maxmemory", "1")
    async with running(desk.publisher.run()):
        await until(lambda: cut.ref in desk.publisher._muted)
        await desk.outside.ask("CONFIG", "SET", "maxmemory", "0")
        for job in (cut, ends):
            desk.publisher.delta(job, attempt=1, seq=1, text="b")
        desk.publisher.delta(other, attempt=1, seq=0, text="c")
        found = await asyncio.gather(*map(desk.finish, (cut, ends, other)))
    assert set(found) == {Finish.PUBLISHED}
    deltas = [(reply["id"], reply["delta"]) for reply in await desk.replies() if reply["final"] == "0"]
    assert deltas == [(other.id, "c")]
    assert not desk.publisher._muted
    await desk.close()


async def test_deltas_that_wait_behind_a_refused_one_are_dropped_though_the_job_has_ended_meanwhile(
    own_valkey: EmbeddedValkey, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(RedisLink(own_valkey.url), keys)
    (job,) = await desk.jobs(1)
    run, answers = desk.finishing.run, []

    async def meanwhile(*args: Any) -> Any:
        if answers:
            return await run(*args)
        await desk.outside.ask("CONFIG", "SET", "maxmemory", "1")
        found = await run(*args)
        await desk.outside.ask("CONFIG", "SET", "maxmemory", "0")
        desk.publisher.delta(job, attempt=1, seq=1, text="b")
        answers.append(desk.finish(job))
        return found

    monkeypatch.setattr(desk.finishing, "run", meanwhile)
    desk.publisher.delta(job, attempt=1, seq=0, text="a")
    async with running(desk.publisher.run()):
        await until(lambda: bool(answers))
        assert await answers[0] is Finish.PUBLISHED
    assert [reply["final"] for reply in await desk.replies()] == ["1"]
    assert not desk.publisher._muted
    await desk.close()


def losing_the_first_answer(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Redis does what it is asked, and the connection is lost before it can say so."""
    run, calls = desk.finishing.run, []

    async def lossy(*args: Any) -> Any:
        found = await run(*args)
        calls.append(len(found))
        if len(calls) == 1:
            raise RedisConnectionError("the answer was lost")
        return found

    monkeypatch.setattr(desk.finishing, "run", lossy)
    return calls


def _calls(info: bytes, prefix: str) -> int:
    lines = [line for line in info.decode().splitlines() if line.startswith(f"cmdstat_{prefix}")]
    return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)
