"""The simulated Redis against a real server: the same random commands and scripts, the same replies."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from tests.deep import DEPTH, deep
from tests.sim.redis_commands import Block, Commands
from tests.sim.redis_words import Error
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.finish_script import DELTA_MARK, FINISH
from theo_daemon.lease_scripts import FETCH, FORGET, HAND_BACK, RECLAIM, RENEW, TAKE
from theo_daemon.ledger_pin import PIN
from theo_daemon.publisher import UNUSABLE
from theo_daemon.redis_link import RedisLink
from theo_daemon.scout_scripts import PASS, PEEK, SHELVE, TAKE_EARLY
from theo_daemon.unowned import FIND, TAKE_IN
from theo_daemon.wire import Wire

pytestmark = pytest.mark.timeout(120 * DEPTH)
HOUR = 3_600_000
OLD = HOUR + HOUR // 2  # an idle time that no few milliseconds bring over or under a limit of whole hours

DOCUMENTS = (
    *(
        '{"tenant": "t1", "model": null}',
        '{"tenant": 3}',
        '{"model": "a\\nb"}',
        '[{"tenant": "t2"}]',
        '"text"',
        "{",
        "",
    ),
    '{"workflow": "' + 70 * "w" + '"}',
)
streams = st.sampled_from(["s1", "s2"])
keys = st.sampled_from(["s1", "s2", "replies", "reply:a", "text", "nothing"])
groups = st.sampled_from(["g", "g", "g", "other"])
consumers = st.sampled_from(["c1", "c2", "c3"])
ids = st.builds("{}-{}".format, st.integers(0, 6), st.integers(0, 2))
bounds = st.one_of(ids, ids.map("({}".format))
idle = st.sampled_from([0, HOUR, 2 * HOUR])
counts = st.integers(1, 3)


def command(*parts: Any) -> st.SearchStrategy[tuple[Any, ...]]:
    """A tuple of these; strategies are drawn, tuples spliced in."""
    drawn = st.tuples(*[part if isinstance(part, st.SearchStrategy) else st.just(part) for part in parts])
    return drawn.map(lambda words: tuple(_spliced(words)))


def _spliced(words: Sequence[Any]) -> Any:
    for word in words:
        if isinstance(word, tuple | list):
            yield from word
        else:
            yield word


def maybe(*parts: Any) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.one_of(st.just(()), command(*parts))


some_ids = st.lists(ids, min_size=1, max_size=4)
plain = st.one_of(
    command("XADD", keys, maybe("MAXLEN", "~", 1000), st.one_of(ids, st.just("*")), "a", "b"),
    command("XADD", streams, ids, "a", "b", "a", "\x00"),
    command("XADD", streams, ids, st.sampled_from(["tenant", "model", "a"]), "x", "workflow", "y"),
    command("XADD", streams, ids, "job", st.sampled_from(DOCUMENTS)),
    command("XGROUP", "CREATE", streams, groups, st.sampled_from(["0", "$", "2-0"]), maybe("MKSTREAM")),
    command("XGROUP", "DESTROY", streams, groups),
    command("XGROUP", "DELCONSUMER", streams, groups, consumers),
    command("XREADGROUP", "GROUP", groups, consumers, maybe("COUNT", counts), "STREAMS", streams, ">"),
    command("XREADGROUP", "GROUP", "g", consumers, "COUNT", counts, "STREAMS", "s1", "s2", ">", ">"),
    command("XREAD", maybe("COUNT", counts), "STREAMS", keys, ids),
    command("XREAD", "COUNT", counts, "STREAMS", "s1", "s2", ids, ids),
    command("XINFO", "CONSUMERS", keys, groups),
    command("XINFO", "GROUPS", keys),
    command("HSET", keys, st.sampled_from(["f", "g"]), "v", "h", "w"),
    command(st.sampled_from(["HLEN", "EXISTS"]), st.sampled_from(["early", "text"])),
    command(st.sampled_from(["HGET", "HEXISTS"]), keys, st.sampled_from(["f", "s1 1-0"])),
    command("HMGET", keys, "f", "s1 1-0", "h"),
    command("HGETALL", keys),
    command("HDEL", keys, "f", "h"),
    command("XPENDING", keys, groups),
    command("XPENDING", streams, groups, maybe("IDLE", idle), "-", "+", counts, maybe(consumers)),
    command("XPENDING", streams, "g", bounds, st.one_of(ids, st.just("+")), 9, maybe(consumers)),
    command("XCLAIM", streams, groups, consumers, idle, some_ids, maybe("IDLE", OLD), maybe("RETRYCOUNT", 7),
            maybe("FORCE"), maybe("JUSTID")),
    command("XAUTOCLAIM", streams, groups, consumers, idle, ids, maybe("COUNT", counts), maybe("JUSTID")),
    command("XACK", keys, groups, some_ids),
    command("XDEL", keys, some_ids),
    command("XLEN", keys),
    command("XRANGE", keys, st.one_of(bounds, st.just("-")), st.one_of(ids, st.just("+")), maybe("COUNT", counts)),
    command("SET", keys, "v", maybe("PX", 10 * HOUR)),
    command(st.sampled_from(["GET", "TYPE", "EXISTS", "PTTL"]), keys),
    command("DEL", keys, keys),
    command("PEXPIRE", keys, 10 * HOUR),
    command("NOSUCH", keys),
    command("EVALSHA", "0" * 40, 0),
)  # fmt: skip

steps = st.tuples(streams, ids, keys, st.sampled_from(["t1", "t2"]), st.integers(-1, 1))


def finish(chosen: Sequence[tuple[str, str, str, str, int]], group: str) -> tuple[Any, ...]:
    names: list[Any] = ["replies", "dead", "early"]
    args: list[Any] = [group, 1000, 10 * HOUR, 20 * HOUR, 100]
    for stream, entry, target, token, dead in chosen:
        names += [stream, f"done:{stream}:{entry}", target]
        args += [entry, token, 2, DELTA_MARK if dead < 0 else 2 * dead, "final", "1"]
        args += ["job", "x"] if dead > 0 else []
    return ("EVAL", FINISH.text, len(names), *names, *args)


scripts = st.one_of(
    st.builds(finish, st.lists(steps, min_size=1, max_size=4), groups),
    command("EVAL", RENEW.text, 2, streams, "early", groups, consumers, counts, some_ids),
    command("EVAL", HAND_BACK.text, 2, streams, "early", groups, consumers, OLD, some_ids),
    command(
        "EVAL", RECLAIM.text, 2, streams, "early", groups, consumers, st.integers(1, 3), idle, ids, counts
    ),
    command(
        "EVAL",
        TAKE.text,
        2,
        streams,
        "early",
        groups,
        consumers,
        st.integers(1, 3),
        consumers,
        idle,
        some_ids,
    ),
    command("EVAL", FETCH.text, 1, streams, groups, consumers, ids, st.sampled_from([2, 100]), 1, 3),
    command("EVAL", FORGET.text, 1, streams, groups, idle, consumers),
    command("EVAL", UNUSABLE.text, 3, keys, keys, keys),
    command(
        "EVAL", PEEK.text, 1, streams, groups, ids, counts, st.sampled_from([20, 9_999]), maybe("x", "", "y")
    ),
    command("EVAL", TAKE_EARLY.text, 2, streams, "early", groups, consumers, 10 * HOUR, some_ids),
    command("EVAL", PASS.text, 2, streams, "early", groups, consumers, some_ids),
    command(
        "EVAL",
        FIND.text,
        1,
        streams,
        groups,
        st.sampled_from(["-", "(1-0"]),
        counts,
        st.sampled_from([2, 9_999]),
    ),
    command("EVAL", TAKE_IN.text, 1, streams, groups, consumers, some_ids),
    command("EVAL", SHELVE.text, 1, streams, groups, consumers, OLD, some_ids),
    command(
        "EVAL",
        PIN.text,
        2,
        keys,
        "plans",
        st.sampled_from(["u1", "u2"]),
        st.sampled_from(["here", "there"]),
        "ledger.db",
        consumers,
        st.sampled_from(["{}", '{"model a": "none"}']),
        HOUR,
    ),
)
moods = st.sampled_from([("full",), ("roomy",), ("replica",), ("primary",)])
commands = st.one_of(plain, plain, plain, scripts, scripts)
TIMES = {"XPENDING": (2,), "XINFO": (5, 7)}  # where in a row of the reply
SERVER_MOODS = {
    "full": ("CONFIG", "SET", "maxmemory", "1"),
    "roomy": ("CONFIG", "SET", "maxmemory", "0"),
    "replica": ("REPLICAOF", "127.0.0.1", "1"),
    "primary": ("REPLICAOF", "NO", "ONE"),
}


class Pair:
    """A server and its model, asked the same."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._now = 0.0
        self._model = Commands(lambda: self._now)

    async def reset(self) -> None:
        for mood in ("roomy", "primary"):
            await self._wire.ask(*SERVER_MOODS[mood])
        await self._wire.ask("FLUSHALL")

    async def do(self, words: tuple[Any, ...]) -> tuple[Any, Any]:
        if words[0] in SERVER_MOODS:
            await self._wire.ask_all([SERVER_MOODS[words[0]]])
            self._model.full = {"full": True, "roomy": False}.get(words[0], self._model.full)
            self._model.replica = {"replica": True, "primary": False}.get(words[0], self._model.replica)
            return None, None
        (real,) = await self._wire.ask_all([words])
        self._now = time.time()
        found = self._model.do([str(word).encode() for word in words])
        assert not isinstance(found, Block)
        return comparable(words, real), comparable(words, found)


def comparable(words: Sequence[Any], reply: Any) -> Any:
    """Errors by their words, times by the hour, ids that are the time without it."""
    if words[:2] == ("XINFO", "GROUPS") and isinstance(reply, list):
        return [[comparable((), one) for one in row[:8]] for row in reply]
    places = TIMES.get(words[0], ()) if len(words) > 3 and isinstance(reply, list) else ()
    if places:
        reply = [[_hours(one) if place in places else one for place, one in enumerate(row)] for row in reply]
    match reply:
        case Error() as error:
            return ("error", _words(error.text.decode()))
        case ResponseError():
            return ("error", _words(f"{reply.status_code or ''} {reply}".strip()))
        case [verdict, *rest] if words[:2] == ("EVAL", PIN.text):
            # how long ago, by clocks that are milliseconds apart
            return [verdict, *(_hours(one) if isinstance(one, int) else comparable((), one) for one in rest)]
        case list():
            return [comparable((), one) for one in reply]
        case int() if words and words[0] == "PTTL":
            return _hours(reply)
        case bytes() if re.fullmatch(rb"\d{13}", reply):  # when, by the same two clocks
            return _hours(int(reply))
        case bytes():
            return re.sub(rb"^\d{13}-\d+$", b"now", reply)
        case _:
            return reply


def _hours(ms: int) -> float:
    return ms if ms < 0 else round(ms / HOUR, 1)


def _words(text: str) -> str:
    """Scripts add where it happened; of an unknown command the server repeats the arguments."""
    return text.partition(" script:")[0].partition(", with args")[0].strip().removesuffix(".")


@pytest.mark.parametrize("moody", [False, True], ids=["at ease", "full and read-only at times"])
def test_the_model_replies_what_a_server_replies(own_valkey: EmbeddedValkey, moody: bool) -> None:
    with asyncio.Runner() as runner:
        wire = RedisLink(own_valkey.url).wire()

        @settings(max_examples=deep(150), deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.one_of(commands, moods) if moody else commands, min_size=5, max_size=40))
        def agree(asked: Sequence[tuple[Any, ...]]) -> None:
            async def play() -> None:
                pair = Pair(wire)
                await pair.reset()
                story = []
                for words in [("XGROUP", "CREATE", "s1", "g", "0", "MKSTREAM"), *asked]:
                    real, found = await pair.do(words)
                    story.append(words[2:] if words[0] == "EVAL" else words)
                    assert found == real, story

            runner.run(play())

        agree()
        runner.run(wire.close())
