"""The planted bugs: what each replaces, and which tests of the suite must fail for it.

They are the mistakes that systems of this kind are known to make. One that no longer applies fails the gate: then the
source has changed under it, and the bug must be planted anew.
"""

from __future__ import annotations

from typing import NamedTuple

DAEMON, LEDGER = "daemon/theo_daemon", "daemon/theo_daemon/ledger"
SQLITE, LUA = f"{LEDGER}/sqlite", f"{LEDGER}/redis/lua"


class Mutant(NamedTuple):
    """`old` occurs in `file` exactly once; `tests` are the ones that catch it, and few, so that they are quick."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


FINISH = "tests/contract/test_finish_script.py::test_"
LEASES = "tests/contract/test_leases.py::test_"
RULES = "tests/daemon/test_ledger_rules.py::test_"
MONEY = "tests/contract/test_ledger_money_contract.py::test_"
MODELS = "tests/contract/test_ledger_models_contract.py::test_"
REDIS_LEDGER = "tests/contract/test_redis_ledger"
CRASHES = "tests/scenario/test_crash_points.py::test_the_job_gets_its_one_reply_and_only_a_call_in_doubt_is_made_again"

MUTANTS = (
    Mutant(
        "the reply is published again whenever somebody asks",
        f"{DAEMON}/finish_script.py",
        "                redis.call('SET', marker, found .. token, 'PX', done_ms)\n",
        "",
        (
            f"{FINISH}a_repeated_call_finds_its_own_work",
            f"{FINISH}whoever_owns_the_entry_the_first_to_finish_answers",
        ),
    ),
    Mutant(
        "an entry that is not pending is answered all the same",
        f"{DAEMON}/finish_script.py",
        "    return redis.pcall('HEXISTS', early, stream .. ' ' .. id) == 1 and 1 or -1\n",
        "    return 1\n",
        (f"{FINISH}an_entry_that_waits_for_delivery_is_left_alone",),
    ),
    Mutant(
        "acknowledged first, published afterwards",
        f"{DAEMON}/finish_script.py",
        "            local trouble = publish(target, first, first + words - 1)\n",
        "            redis.pcall('XACK', stream, group, id)\n            redis.pcall('XDEL', stream, id)\n"
        "            local trouble = publish(target, first, first + words - 1)\n",
        (f"{FINISH}where_nothing_can_be_written_the_entry_stays_and_others_are_served",),
    ),
    Mutant(
        "a transaction in place of the script: it looks at nothing",
        f"{DAEMON}/finish_script.py",
        "    elseif done then\n"
        "        found = string.sub(done, 2) == token and tonumber(string.sub(done, 1, 1)) or 0\n"
        "    else\n        found = state(stream, id)\n",
        "    else\n        found = 1\n",
        (
            f"{FINISH}whoever_owns_the_entry_the_first_to_finish_answers",
            f"{FINISH}what_a_peer_has_answered_is_acknowledged_and_not_answered_again",
        ),
    ),
    Mutant(
        "published here, acknowledged in another step",
        f"{DAEMON}/finish_script.py",
        "    redis.pcall('XACK', stream, group, unpack(ids))\n",
        "",
        (f"{FINISH}a_pending_entry_is_answered_acknowledged_and_deleted",),
    ),
    Mutant(
        "an entry stays in the stream after its reply",
        f"{DAEMON}/finish_script.py",
        "    redis.pcall('XDEL', stream, unpack(ids))\n",
        "",
        (f"{FINISH}a_pending_entry_is_answered_acknowledged_and_deleted",),
    ),
    Mutant(
        "a heartbeat steals back what a peer has taken over",
        f"{DAEMON}/lease_scripts.py",
        "    local pending = redis.pcall('XPENDING', key, group, id, id, 1, consumer)\n"
        "    if not pending.err and #pending > 0 then\n        own[#own + 1] = id\n",
        "    local pending = redis.pcall('XPENDING', key, group, id, id, 1)\n"
        "    if not pending.err and #pending > 0 then\n        own[#own + 1] = id\n",
        (f"{LEASES}renewing_does_not_steal_back_what_a_peer_has_taken",),
    ),
    Mutant(
        "who lost an entry takes it back from nobody's hands, before the peer who had it",
        f"{DAEMON}/lease_scripts.py",
        "local free = i <= ours and last",
        "local free = last",
        (
            "tests/contract/test_unowned.py::test_who_lost_an_entry_to_a_peer_does_not_take_it_back_when_it_is_nobody_s",
        ),
    ),
    Mutant(
        "what is nobody's is taken at once, from who works on it and may take it back",
        f"{DAEMON}/unowned.py",
        "since + self._lease_s <= now",
        "since <= now",
        (
            "tests/contract/test_unowned.py::test_what_a_deleted_consumer_held_is_taken_a_lease_after_it_was_first_seen",
        ),
    ),
    Mutant(
        "taking over does not look at who owns the entry by now",
        f"{DAEMON}/lease_scripts.py",
        "'IDLE', idle, id, id, 1, owner)",
        "'IDLE', idle, id, id, 1)",
        (f"{LEASES}an_entry_that_found_another_owner_meanwhile_is_not_taken",),
    ),
    Mutant(
        "a new group does not see what was pushed before it",
        f"{DAEMON}/intake.py",
        '("XGROUP", "CREATE", stream, group, "0", "MKSTREAM")',
        '("XGROUP", "CREATE", stream, group, "$", "MKSTREAM")',
        ("tests/contract/test_intake.py::test_sees_jobs_that_were_pushed_before_the_first_start",),
    ),
    Mutant(
        "a command whose answer was lost is sent again",
        f"{DAEMON}/wire.py",
        "                replies = await self._exchange(packed, len(commands))\n",
        "                try:\n                    replies = await self._exchange(packed, len(commands))\n"
        "                except RedisConnectionError:\n"
        "                    replies = await self._exchange(packed, len(commands))\n",
        ("tests/daemon/test_wire_drop.py::test_a_connection_with_an_unread_answer_is_never_used_again",),
    ),
    Mutant(
        "only what is spent counts against a ceiling, not what is held",
        f"{LEDGER}/rules.py",
        "        if left >= balance.held_nano:\n",
        "        if left >= 0:\n",
        (
            f"{RULES}what_is_only_held_may_come_back",
            f"{RULES}a_batch_never_holds_more_than_the_ceiling_leaves",
        ),
    ),
    Mutant(
        "a call in flight for the same key is ignored",
        f"{LEDGER}/rules.py",
        "    if ask.key in known.holders:\n        return Busy()\n",
        "",
        (f"{RULES}a_key_in_flight_elsewhere_is_waited_for",),
    ),
    Mutant(
        "another payload under a known id gets the first one's reply",
        f"{LEDGER}/rules.py",
        "        case Remembered(digest=digest) if digest != ask.digest:\n            return Conflict()\n",
        "",
        (f"{RULES}a_repeated_id_gets_the_first_outcome_waits_for_it_or_is_a_conflict",),
    ),
    Mutant(
        "what a call held is not given back",
        f"{SQLITE}/commit.py",
        "                row[1] -= one.bound_nano or 0\n",
        "                row[1] -= 0\n",
        (f"{MONEY}a_landing_moves_the_hold_to_what_is_spent_and_serves_who_comes_after",),
    ),
    Mutant(
        "burying the dead takes settled calls for lost ones",
        f"{SQLITE}/commit.py",
        "error_code = iif(model = ?, NULL, ?) WHERE owner = ? AND state = 'sent'\"",
        'error_code = iif(model = ?, NULL, ?) WHERE owner = ?"',
        (f"{CRASHES}[plain-finish asked-1-retry]",),
    ),
    Mutant(
        "an attempt that was taken for lost is settled once more",
        f"{SQLITE}/store.py",
        '    closed = [one for one in settled if states.get(one.attempt_id) == "sent"]\n',
        "    closed = [one for one in settled if one.attempt_id in states]\n",
        (f"{MONEY}a_process_that_only_seemed_dead_is_charged_the_truth",),
    ),
    Mutant(
        "the dead write on in Redis",
        f"{LUA}/commit.lua",
        "if redis.call('HGET', OWNERS, owner) ~= name then\n",
        "if false then\n",
        (f"{REDIS_LEDGER}_owners.py::test_the_buried_neither_claim_nor_land_nor_free_a_key",),
    ),
    Mutant(
        "a batch whose answer was lost is done again in Redis",
        f"{LUA}/commit.lua",
        "if before[1] == token then\n    told,",
        "if false then\n    told,",
        (f"{REDIS_LEDGER}.py::test_a_batch_whose_answer_is_lost_is_done_once",),
    ),
    Mutant(
        "in Redis only what is spent counts against a ceiling, not what is held",
        f"{LUA}/money.lua",
        "        if left >= balance.held then return nil end\n",
        "        if left >= 0 then return nil end\n",
        (f"{MONEY}calls_racing_for_a_ceiling_never_pass_it[redis]",),
    ),
    Mutant(
        "in Redis a window begins whenever somebody believes so",
        f"{LUA}/claims.lua",
        "        if other then return other end\n",
        "",
        (f"{MONEY}a_window_begins_once_for_all_processes_and_none_goes_back[redis]",),
    ),
    Mutant(
        "a commit does not wait for the disk",
        f"{SQLITE}/schema.py",
        '    db.execute("PRAGMA synchronous = FULL")\n',
        '    db.execute("PRAGMA synchronous = NORMAL")\n',
        ("tests/daemon/test_power_cut.py",),
    ),
    Mutant(
        "an outcome lives no longer than the answer may be used for others",
        f"{DAEMON}/landing.py",
        "                outcome=encode_outcome(outcome) if called or result.remember else None,\n",
        "                outcome=encode_outcome(outcome) if result.remember and ticket.job.client_id else None,\n",
        (f"{CRASHES}[not cached-landing committed-1-retry]",),
    ),
    Mutant(
        "a reply leaves before what it says is durable",
        f"{DAEMON}/landing.py",
        "        await self._ledger.land(landing)\n",
        "        self._ledger.tell(landing)\n",
        (f"{CRASHES}[plain-landing asked-1-retry]", f"{CRASHES}[not cached-landing committed-1-retry]"),
    ),
    Mutant(
        "a call whose outcome nobody knows is sent again against orders",
        f"{DAEMON}/generation.py",
        '        if lost and (policy == "fail" or lost >= self._max_attempts):\n',
        "        if lost >= self._max_attempts:\n",
        (f"{CRASHES}[plain-call out-1-fail]",),
    ),
    Mutant(
        "evidence from before a change of the circuit counts",
        "workers/theo_workers/breaker.py",
        "        if permit.generation != self._permit.generation:\n            return None\n",
        "",
        ("tests/workers/test_breaker.py::test_a_call_from_before_the_opening_counts_for_nothing",),
    ),
    Mutant(
        "a model that takes less than half of its calls leaves jobs without any",
        f"{DAEMON}/fleet.py",
        "while len(candidates) > 1 and chosen is not None and self._throttling",
        "while chosen is not None and self._throttling",
        (
            "tests/scenario/test_throttling.py::test_while_the_others_are_full_a_throttled_model_takes_what_it_gets",
        ),
    ),
    Mutant(
        "a throttle that knows no half: every refusal turns calls away",
        "workers/theo_workers/throttle.py",
        "(self._requests - self._k * self._accepts)",
        "(self._requests - self._accepts)",
        ("tests/workers/test_throttle.py::test_the_share_is_the_formula_of_the_book",),
    ),
    Mutant(
        "who is turned away is no request",
        "workers/theo_workers/throttle.py",
        "        self._count(now, accepts=0)\n        self.passed_over",
        "        self.passed_over",
        ("tests/workers/test_throttle.py::test_whoever_is_turned_away_is_a_request_that_was_not_accepted",),
    ),
    Mutant(
        "a rate limit opens the circuit",
        "workers/theo_workers/failures.py",
        "FailureClass.RATE_LIMITED: Consequence(Billed.NO, BreakerEffect.PAUSE,",
        "FailureClass.RATE_LIMITED: Consequence(Billed.NO, BreakerEffect.FAILURE,",
        ("tests/workers/test_model_worker.py::test_a_429_pauses_for_its_retry_after_and_is_no_failure",),
    ),
    Mutant(
        "a batch that opens a circuit still lets its own calls go",
        f"{LEDGER}/rules.py",
        "shut = known.shut.get(want.model)",
        "shut = None",
        (f"{MODELS}a_batch_that_shuts_a_model_lets_no_call_of_it_go",),
    ),
    Mutant(
        "a truncated answer is kept for others",
        f"{DAEMON}/bookings.py",
        'answer.finish_reason in ("stop", "tool_calls")',
        'answer.finish_reason in ("stop", "tool_calls", "length")',
        ("tests/scenario/test_cache.py::test_what_is_no_whole_answer_is_never_used_again[truncated]",),
    ),
    Mutant(
        "jobs of different tenants have the same key",
        f"{DAEMON}/key.py",
        '(tenant or "").encode()',
        'b""',
        ("tests/daemon/test_key.py::test_no_two_sets_of_fields_share_a_key", "tests/scenario/test_cache.py"),
    ),
)
