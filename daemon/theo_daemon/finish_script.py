"""The one step that ends a job: reply, dead letter, done marker, acknowledgement, deletion; all or nothing.

One call ends a whole batch of jobs and publishes the deltas between them; measured, that costs a fifth of
one call per job. The jobs of a batch are independent: what Redis refuses one of them leaves it unchanged.

KEYS  1 default reply stream   2 dead-letter stream   3 hash of what was taken early
      then per step: job stream, done marker, reply stream
ARGV  1 group   2 reply MAXLEN   3 reply lifetime (ms)   4 done marker lifetime (ms)   5 dead MAXLEN
      then per step: entry id, token, number of reply words, number of dead-letter words, the words.
      A word is a field name or a value. The token names this very attempt to finish, so that repeating a
      call whose answer was lost finds its own work. -1 dead-letter words make the step a delta.

Returns one item per step:
       0  a peer has answered: acknowledged and deleted, nothing published
       1  published, acknowledged and deleted; so with an entry that somebody else has acknowledged before
       2  the entry is gone and nobody had answered: published
      -1  the entry is there and will be delivered again: nothing done
       3  a delta, published, or needless as the job has been answered
    text  the error of Redis: nothing done, try again; of a delta, none of the job's must follow
A reply stream that cannot be written to (another type, no permission, exhausted ids) is replaced by the
default one, with the field `reply_error`; what refuses both (no memory, a read-only replica) is the error.
The reply is the first write, because a server out of memory refuses that one cleanly; acknowledging comes
last, because nothing is rolled back.
"""

from __future__ import annotations

from typing import Final

from theo_daemon.ports import Finish
from theo_daemon.script_parts import UNOWNED
from theo_daemon.wire import Script

MAX_WORDS: Final = 7_800  # Lua hands at most 8,000 values to one command

FOUND: Final = {0: Finish.ALREADY, 1: Finish.PUBLISHED, 2: Finish.ORPHAN, -1: Finish.NOT_PENDING}

DELTA_MARK: Final = -1
DELTA: Final = 3

FINISH: Final = Script(
    UNOWNED
    + """
local default, dead, early = KEYS[1], KEYS[2], KEYS[3]
local group, max_len, lifetime, done_ms, dead_max = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local fresh, ended, results = {}, {}, {}

local function refused(reply)
    return type(reply) == 'table' and reply.err
end

local function add(key, first, last)
    local reply = redis.pcall('XADD', key, 'MAXLEN', '~', max_len, '*', unpack(ARGV, first, last))
    return refused(reply)
end

local function keep(key)
    if not fresh[key] then
        fresh[key] = true
        redis.pcall('PEXPIRE', key, lifetime)
    end
end

-- 1: pending, or nobody's, 2: gone, -1: waiting for delivery
local function state(stream, id)
    local pending = redis.pcall('XPENDING', stream, group, id, id, 1)
    if not pending.err and #pending > 0 then return 1 end
    local entry = redis.pcall('XRANGE', stream, id, id)
    if entry.err or #entry == 0 then return 2 end
    if unowned(stream, group, id, delivered(stream, group)) then return 1 end
    return redis.pcall('HEXISTS', early, stream .. ' ' .. id) == 1 and 1 or -1
end

local function publish(target, first, last)
    local trouble = add(target, first, last)
    if trouble and target ~= default then
        target = default
        local reply = redis.pcall('XADD', default, 'MAXLEN', '~', max_len, '*',
            'reply_error', 'reply_to_not_allowed', unpack(ARGV, first, last))
        trouble = refused(reply)
    end
    if not trouble then keep(target) end
    return trouble
end

local key, arg = 4, 6
while KEYS[key] do
    local stream, marker, target = KEYS[key], KEYS[key + 1], KEYS[key + 2]
    local id, token = ARGV[arg], ARGV[arg + 1]
    local words, dead_words = tonumber(ARGV[arg + 2]), tonumber(ARGV[arg + 3])
    local first = arg + 4
    local done = redis.pcall('GET', marker)
    if refused(done) then done = false end
    local found
    if dead_words < 0 then
        found = 3
        dead_words = 0
        if not done then
            local trouble = add(target, first, first + words - 1)
            if trouble then found = trouble else keep(target) end
        end
    elseif done then
        found = string.sub(done, 2) == token and tonumber(string.sub(done, 1, 1)) or 0
    else
        found = state(stream, id)
        if found > 0 then
            local trouble = publish(target, first, first + words - 1)
            if trouble then
                found = trouble
            else
                if dead_words > 0 then
                    redis.pcall('XADD', dead, 'MAXLEN', '~', dead_max, '*',
                        unpack(ARGV, first + words, first + words + dead_words - 1))
                end
                redis.call('SET', marker, found .. token, 'PX', done_ms)
            end
        end
    end
    if found == 0 or found == 1 then
        local ids = ended[stream] or {}
        ids[#ids + 1] = id
        ended[stream] = ids
    end
    results[#results + 1] = found
    key = key + 3
    arg = first + words + dead_words
end
for stream, ids in pairs(ended) do
    redis.pcall('XACK', stream, group, unpack(ids))
    redis.pcall('XDEL', stream, unpack(ids))
end
return results
"""
)
