"""What happens to pending entries, in Lua: each looks who owns an entry and acts in the same step.

A plain XCLAIM asks nobody: it would steal an entry back from the peer that has rightly taken it over.
All take one job stream as KEYS[1] and the group as ARGV[1]; those that change who has an entry, the hash of what was
taken early (`scout_scripts.py`) as KEYS[2], which says whose such an entry is. Suspect entries (`suspicion.py`) change
hands without being read: not even their size is known to be harmless.
"""

from __future__ import annotations

from typing import Final

from theo_daemon.script_parts import LATER
from theo_daemon.wire import Script

RENEW: Final = Script(
    LATER
    + """
-- ARGV: group, consumer, how many of the ids it may take back, entry ids, those first. Restarts the lease of the
-- entries the consumer owns, and takes those back that it had and that are nobody's. Returns {ids that are another's,
-- or will be delivered again, ids that are not in the stream any more, ids that were taken back}.
local key, early, group, consumer, ours = KEYS[1], KEYS[2], ARGV[1], ARGV[2], 3 + ARGV[3]
local own, lost, gone, back, last = {}, {}, {}, {}, nil
for i = 4, #ARGV do
    local id = ARGV[i]
    local pending = redis.pcall('XPENDING', key, group, id, id, 1, consumer)
    if not pending.err and #pending > 0 then
        own[#own + 1] = id
    else
        last = last or delivered(key, group)
        local free = i <= ours and last and #redis.call('XPENDING', key, group, id, id, 1) == 0
        local again = free and later(id, last) and redis.call('HGET', early, key .. ' ' .. id) ~= consumer
        if free and not again and #redis.call('XCLAIM', key, group, consumer, 0, id, 'FORCE', 'JUSTID') > 0 then
            back[#back + 1] = id
        else
            local entry = redis.pcall('XRANGE', key, id, id)
            if entry.err or #entry == 0 then gone[#gone + 1] = id else lost[#lost + 1] = id end
        end
    end
end
if #own > 0 then
    own[#own + 1] = 'JUSTID'
    redis.call('XCLAIM', key, group, consumer, 0, unpack(own))
end
return {lost, gone, back}
"""
)

HAND_BACK: Final = Script("""
-- ARGV: group, consumer, idle ms to set, entry ids. Ends the lease of the entries the consumer owns. Its own
-- delivery is taken back: that somebody left politely makes no entry suspect.
local key, early, group, consumer, idle = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
for i = 4, #ARGV do
    local id = ARGV[i]
    local pending = redis.pcall('XPENDING', key, group, id, id, 1, consumer)
    if not pending.err and #pending > 0 then
        local before = math.max(pending[1][4] - 1, 0)
        redis.call('XCLAIM', key, group, consumer, 0, id, 'IDLE', idle, 'RETRYCOUNT', before, 'JUSTID')
        local name = key .. ' ' .. id
        if redis.call('HEXISTS', early, name) == 1 then redis.call('HSET', early, name, '') end
    end
end
""")

_CLAIM = """
-- Gives `ids` (with their deliveries so far) to `consumer`: {entries with their fields, suspects as pairs of id and
-- deliveries, number of ids that are not in the stream any more}. From `limit` deliveries on an entry is suspect.
local function claim(key, early, group, consumer, ids, deliveries, limit)
    local clear, suspects = {}, {}
    local gone = 0
    for i, id in ipairs(ids) do
        local count = deliveries[i] + 1
        if count < limit then
            clear[#clear + 1] = id
        elseif #redis.call('XCLAIM', key, group, consumer, 0, id, 'RETRYCOUNT', count, 'JUSTID') > 0 then
            suspects[#suspects + 1] = {id, count}
        else
            gone = gone + 1
        end
    end
    local entries = {}
    if #clear > 0 then entries = redis.call('XCLAIM', key, group, consumer, 0, unpack(clear)) end
    for _, id in ipairs(redis.call('EXISTS', early) == 1 and ids or {}) do
        local name = key .. ' ' .. id
        if redis.call('HEXISTS', early, name) == 1 then redis.call('HSET', early, name, consumer) end
    end
    return {entries, suspects, gone + #clear - #entries}
end
"""

RECLAIM: Final = Script(
    _CLAIM
    + """
-- ARGV: group, consumer, deliveries from which on an entry is suspect, least idle ms, cursor, most entries.
-- Takes what nobody has kept for so long. Returns {next cursor, and what `claim` returns}.
local key, early, group, consumer, limit = KEYS[1], KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3])
local found = redis.pcall('XAUTOCLAIM', key, group, consumer, ARGV[4], ARGV[5], 'COUNT', ARGV[6], 'JUSTID')
if found.err then return found end
local deliveries = {}
for i, id in ipairs(found[2]) do deliveries[i] = redis.call('XPENDING', key, group, id, id, 1)[1][4] end
local taken = claim(key, early, group, consumer, found[2], deliveries, limit)
-- Servers before 7.0 do not tell the third part.
return {found[1], taken[1], taken[2], taken[3] + (found[3] and #found[3] or 0)}
"""
)

TAKE: Final = Script(
    _CLAIM
    + """
-- ARGV: group, consumer, deliveries from which on an entry is suspect, present owner, least idle ms, entry ids.
-- Takes those the present owner still has. Returns what `claim` returns.
local key, early, group, consumer, limit = KEYS[1], KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3])
local owner, idle = ARGV[4], ARGV[5]
local ids, deliveries = {}, {}
for i = 6, #ARGV do
    local id = ARGV[i]
    local pending = redis.pcall('XPENDING', key, group, 'IDLE', idle, id, id, 1, owner)
    if not pending.err and #pending > 0 then
        ids[#ids + 1] = id
        deliveries[#deliveries + 1] = pending[1][4]
    end
end
return claim(key, early, group, consumer, ids, deliveries, limit)
"""
)

FETCH: Final = Script("""
-- ARGV: group, consumer, entry id, most bytes, most bytes of a word of what is larger, most words of it.
-- One entry that the consumer owns: {bytes of all its words, the words, cut if they are too many bytes}; {} if it is
-- another's or gone.
local key, group, consumer, id, most = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local pending = redis.pcall('XPENDING', key, group, id, id, 1, consumer)
if pending.err or #pending == 0 then return {} end
local entry = redis.call('XRANGE', key, id, id)[1]
if not entry then return {} end
local words, size = entry[2], 0
for _, word in ipairs(words) do size = size + #word end
if size <= most then return {size, words} end
local cut = {}
for i = 1, math.min(#words, tonumber(ARGV[6])) do cut[i] = string.sub(words[i], 1, tonumber(ARGV[5])) end
return {size, cut}
""")

FORGET: Final = Script("""
-- ARGV: group, least idle ms, consumer that asks. Deletes consumers that own nothing and have been silent for
-- so long; with idle 0 the asking one itself and no other. XGROUP DELCONSUMER alone drops what is pending.
-- Returns the names.
local key, group, idle, own = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]
local names = {}
local consumers = redis.pcall('XINFO', 'CONSUMERS', key, group)
if consumers.err then return names end
for _, row in ipairs(consumers) do
    local facts = {}
    for i = 1, #row, 2 do facts[row[i]] = row[i + 1] end
    local chosen
    if idle == 0 then chosen = facts.name == own else chosen = facts.name ~= own and facts.idle > idle end
    if chosen and facts.pending == 0 then
        redis.call('XGROUP', 'DELCONSUMER', key, group, facts.name)
        names[#names + 1] = facts.name
    end
end
return names
""")
