"""Looking past what has been read, in Lua: whose jobs lie there, and taking single ones of them before their time.

An entry taken early is pending like any other, with an id beyond what the group has delivered. A later read comes by
it, unless it is finished by then, and would make it the reader's: the hash `P:early` tells readers which these are,
and whose: '' are those that were handed back since.
"""

from __future__ import annotations

from typing import Final

from theo_daemon.script_parts import LATER
from theo_daemon.wire import Script

PEEK: Final = Script(
    """
-- KEYS: job stream. ARGV: group, id to look after, most entries, most bytes, then what is of no interest: tenant,
-- model, workflow, each time. Looks at entries that the group has not delivered. Returns {last id delivered, last id
-- looked at, and for each entry of interest its id, tenant, model, workflow}; what a job does not say is ''.
-- An entry too large to be looked into, or that is no job, is passed over: it comes with its turn.
"""
    + LATER
    + """
local key, at, most, left = KEYS[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local last = delivered(key, ARGV[1])
if not last then return {'0-0', at} end
if later(last, at) then at = last end
local skip = {}
for i = 5, #ARGV, 3 do skip[ARGV[i] .. '\\n' .. ARGV[i + 1] .. '\\n' .. ARGV[i + 2]] = true end

local function said(fields)
    local job = {}
    for i = 1, #fields, 2 do
        left = left - #fields[i] - #fields[i + 1]
        job[fields[i]] = fields[i + 1]
    end
    if job.job then
        if #job.job > 65536 then return nil end
        local good, document = pcall(cjson.decode, job.job)
        if not good or type(document) ~= 'table' then return nil end
        job = document
    end
    local found = {}
    for i, name in ipairs({'tenant', 'model', 'workflow'}) do
        local word = job[name]
        if word == nil or word == cjson.null then word = '' end
        if type(word) ~= 'string' or #word > 64 or string.find(word, '\\n', 1, true) then return nil end
        found[i] = word
    end
    return found
end

local seen, page, found = 0, 8, {last, at}
while seen < most and left > 0 do
    local entries = redis.call('XRANGE', key, '(' .. at, '+', 'COUNT', math.min(page, most - seen))
    if #entries == 0 then break end
    local before = left
    for _, entry in ipairs(entries) do
        at = entry[1]
        local words = said(entry[2])
        if words and not skip[words[1] .. '\\n' .. words[2] .. '\\n' .. words[3]] then
            for _, word in ipairs({at, words[1], words[2], words[3]}) do found[#found + 1] = word end
        end
    end
    seen = seen + #entries
    page = math.max(1, math.min(100, math.floor(65536 * #entries / (before - left + 1))))
end
found[2] = at
return found
"""
)

TAKE_EARLY: Final = Script(
    """
-- KEYS: job stream, hash of what was taken early. ARGV: group, consumer, lifetime of the hash (ms), entry ids.
-- Takes those that are not delivered yet, nor taken by a peer: not even if somebody else has acknowledged it since, as
-- that may have called for it. Its turn comes, and `PASS` knows whose it was. Returns the entries with their fields.
"""
    + LATER
    + """
local key, early, group, consumer = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local last = delivered(key, group)
local taken = {}
for i = 4, last and #ARGV or 3 do
    local id = ARGV[i]
    local name = key .. ' ' .. id
    local free = later(id, last) and redis.call('HEXISTS', early, name) == 0
    if free and #redis.call('XPENDING', key, group, id, id, 1) == 0 then
        local entry = redis.call('XCLAIM', key, group, consumer, 0, id, 'RETRYCOUNT', 1, 'FORCE')[1]
        if entry then
            taken[#taken + 1] = entry
            redis.call('HSET', early, name, consumer)
        end
    end
end
if #taken > 0 then redis.call('PEXPIRE', early, ARGV[3]) end
return taken
"""
)

PASS: Final = Script("""
-- KEYS: job stream, hash of what was taken early. ARGV: group, consumer, ids that this consumer has just been given.
-- Those that were taken early go back to whose they are, if they are not finished; what was handed back is for
-- whoever looks for entries that nobody keeps, as it may have been called for before. Returns their ids.
local key, early, group, consumer = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local passed = {}
for i = 3, #ARGV do
    local id = ARGV[i]
    local owner = redis.call('HGET', early, key .. ' ' .. id)
    if owner then
        redis.call('HDEL', early, key .. ' ' .. id)
        passed[#passed + 1] = id
        local ours = #redis.call('XPENDING', key, group, id, id, 1, consumer) > 0
        if ours and owner == '' then
            redis.call('XCLAIM', key, group, consumer, 0, id, 'IDLE', 86400000, 'RETRYCOUNT', 0, 'JUSTID')
        elseif ours and owner ~= consumer then
            redis.call('XCLAIM', key, group, owner, 0, id, 'JUSTID')
        end
    end
end
return passed
""")

SHELVE: Final = Script("""
-- KEYS: job stream. ARGV: group, consumer, idle ms to set, entry ids. Own entries that this process lets go of: they
-- are taken over, by itself or a peer, once their lease is over by that. It counts as no delivery.
local key, group, consumer = KEYS[1], ARGV[1], ARGV[2]
for i = 4, #ARGV do
    local pending = redis.call('XPENDING', key, group, ARGV[i], ARGV[i], 1, consumer)[1]
    if pending then
        redis.call('XCLAIM', key, group, consumer, 0, ARGV[i], 'IDLE', ARGV[3],
            'RETRYCOUNT', math.max(0, pending[4] - 1), 'JUSTID')
    end
end
return 0
""")
