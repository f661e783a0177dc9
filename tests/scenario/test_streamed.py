"""Deltas: to every job of a flight that wants them, without gaps, from the start."""

from __future__ import annotations

from tests.fakes import Delta
from tests.scenario.stage import Stage, model, staged
from theo_daemon.job import EntryRef
from theo_workers.upstreams.script import Fate

CHUNKS = tuple(f"w{n} " for n in range(10))
TEXT = "".join(CHUNKS)
STREAM = Fate(chunks=CHUNKS, chunk_interval_ms=100)


def pieces(stage: Stage, ref: EntryRef) -> list[Delta]:
    """The deltas, after a look at what clients rely on: `attempt` never falls, `seq` has no gap."""
    deltas = stage.deltas(ref)
    attempts = [one.attempt for one in deltas]
    assert attempts == sorted(attempts)
    for attempt in set(attempts):
        assert attempt >= 1
        seqs = [one.seq for one in deltas if one.attempt == attempt]
        assert seqs == list(range(len(seqs)))
    return deltas


def kept(stage: Stage, ref: EntryRef) -> str:
    """The text of a client that drops what it had when `attempt` grows."""
    deltas = pieces(stage, ref)
    return "".join(one.text for one in deltas if one.attempt == deltas[-1].attempt) if deltas else ""


async def test_an_answer_is_told_piece_by_piece_and_then_whole() -> None:
    async with staged(model("m", STREAM)) as stage:
        ref = stage.push(stream="1")
        await stage.advance(0.5)
        assert TEXT.startswith(kept(stage, ref))
        assert 0 < len(kept(stage, ref)) < len(TEXT)
        await stage.advance(1)
        assert kept(stage, ref) == TEXT == stage.ok(ref).answer.output
        assert len(pieces(stage, ref)) >= 5


async def test_pieces_come_no_more_often_than_every_fifty_milliseconds() -> None:
    fate = Fate(chunks=tuple("abcdefghij" * 20), chunk_interval_ms=5)
    async with staged(model("m", fate)) as stage:
        ref = stage.push(stream="1")
        await stage.advance(2)
        assert kept(stage, ref) == stage.ok(ref).answer.output
        assert len(pieces(stage, ref)) <= 1 + 1.0 / 0.05


async def test_the_provider_is_asked_to_stream_only_if_a_job_wants_it() -> None:
    async with staged(model("m", STREAM)) as stage:
        stage.push("plain")
        stage.push("streamed", stream="1")
        await stage.advance(2)
        assert dict(zip(stage.upstreams["m"].prompts, stage.upstreams["m"].streamed, strict=True)) == {
            "plain": False,
            "streamed": True,
        }


async def test_all_jobs_of_a_flight_get_the_pieces_and_a_late_one_gets_them_from_the_start() -> None:
    async with staged(model("m", STREAM)) as stage:
        refs = stage.push_all(["same"] * 2, stream="1")
        quiet = stage.push("same")
        await stage.advance(0.6)
        late = stage.push("same", stream="1")
        await stage.advance(0.2)
        assert kept(stage, late).startswith("w0 w1 w2 w3 w4 w5 ")
        await stage.advance(1)
        assert [kept(stage, ref) for ref in (*refs, late)] == [TEXT] * 3
        assert stage.deltas(quiet) == []
        assert stage.calls == 1


async def test_who_wants_pieces_of_a_call_that_does_not_stream_gets_one() -> None:
    async with staged(model("m", Fate(text=TEXT, latency_ms=1000))) as stage:
        stage.push("same")
        await stage.advance(0.5)
        late = stage.push("same", stream="1")
        await stage.advance(1)
        assert pieces(stage, late) == [Delta(1, 0, TEXT)]


async def test_a_cache_hit_is_one_piece() -> None:
    async with staged(model("m", Fate(text=TEXT))) as stage:
        stage.push("same")
        await stage.advance(0.1)
        ref = stage.push("same", stream="1")
        await stage.advance(0.1)
        assert stage.ok(ref).cache_hit
        assert pieces(stage, ref) == [Delta(1, 0, TEXT)]


async def test_a_repeated_id_is_one_piece() -> None:
    async with staged(model("m", STREAM)) as stage:
        stage.push("same", id="mine", cache="off", stream="1")
        await stage.advance(2)
        ref = stage.push("same", id="mine", cache="off", stream="1")
        await stage.advance(0.1)
        assert stage.calls == 1
        assert [one.text for one in pieces(stage, ref)] == [TEXT]


async def test_after_a_broken_stream_the_attempt_grows_and_the_text_begins_anew() -> None:
    broken = Fate(
        chunks=("half ", "an ", "answer"), chunk_interval_ms=100, error="provider_unavailable", failure=None
    )
    first = model("breaks", broken, routing={"weight": 1e12})
    async with staged(first, model("m", STREAM)) as stage:
        refs = stage.push_all(["same"] * 2, stream="1")
        await stage.advance(0.15)
        assert [kept(stage, ref) for ref in refs] == ["half an "] * 2
        await stage.advance(2)
        for ref in refs:
            assert kept(stage, ref) == TEXT == stage.ok(ref).answer.output
            assert {one.attempt for one in pieces(stage, ref)} == {1, 2}


async def test_when_the_first_job_leaves_the_pieces_go_on_where_they_were() -> None:
    async with staged(model("m", STREAM)) as stage:
        leaver = stage.push("same", stream="1", ttl_ms="500")
        stayer = stage.push("same", stream="1")
        await stage.advance(2)
        assert stage.end(leaver) == "deadline_exceeded"
        assert 0 < len(kept(stage, leaver)) < len(TEXT)
        assert kept(stage, stayer) == TEXT
        assert {one.attempt for one in pieces(stage, stayer)} == {1}


async def test_who_takes_over_after_an_unknown_outcome_is_told_of_a_new_attempt() -> None:
    cut = Fate(chunks=("half ", "an ", "answer"), chunk_interval_ms=100, error="provider_timeout")
    async with staged(model("m", cut, STREAM)) as stage:
        careful = stage.push("same", stream="1", on_unknown="fail")
        other = stage.push("same", stream="1")
        await stage.advance(3)
        assert stage.end(careful) == "outcome_unknown"
        assert kept(stage, other) == TEXT == stage.ok(other).answer.output
        assert {one.attempt for one in pieces(stage, other)} == {1, 2}


async def test_no_piece_comes_after_the_final_reply() -> None:
    async with staged(model("m", STREAM)) as stage:
        refs = stage.push_all(["same"] * 3, stream="1", ttl_ms="620")
        await stage.advance(0.7)
        assert stage.ends(refs) == ["deadline_exceeded"] * 3
        then = [len(stage.deltas(ref)) for ref in refs]
        await stage.advance(5)
        assert [len(stage.deltas(ref)) for ref in refs] == then
