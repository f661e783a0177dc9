"""What happens to pending entries, in Lua: each looks who owns an entry and acts in the same step.

A plain XCLAIM asks nobody: it would steal an entry back from the peer that has rightly taken it over.
All take one job stream as KEYS[1] and the group as ARGV[1].
"""

from __future__ import annotations

from typing import Final

from theo_daemon.wire import Script

RENEW: Final = Script("""
-- ARGV: group, consumer, idle ms to set, entry ids. Restarts the lease of the entries the consumer owns.
-- Returns {ids that are another's or nobody's, ids that are not in the stream any more}.
local key, group, consumer, idle = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local own, lost, gone = {}, {}, {}
for i = 4, #ARGV do
    local id = ARGV[i]
    local pending = redis.pcall('XPENDING', key, group, id, id, 1, consumer)
    if not pending.err and #pending > 0 then
        own[#own + 1] = id
    else
        local entry = redis.pcall('XRANGE', key, id, id)
        if not entry.err and #entry > 0 then lost[#lost + 1] = id else gone[#gone + 1] = id end
    end
end
if #own > 0 then
    own[#own + 1] = 'IDLE'
    own[#own + 1] = idle
    own[#own + 1] = 'JUSTID'
    redis.call('XCLAIM', key, group, consumer, 0, unpack(own))
end
return {lost, gone}
""")

TAKE: Final = Script("""
-- ARGV: group, consumer, present owner, least idle ms, entry ids. Moves those the present owner still has.
-- Returns {entries with their fields, number of ids that were pending but not in the stream any more}.
local key, group, consumer, owner, idle = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ids = {}
for i = 5, #ARGV do
    local id = ARGV[i]
    local pending = redis.pcall('XPENDING', key, group, 'IDLE', idle, id, id, 1, owner)
    if not pending.err and #pending > 0 then ids[#ids + 1] = id end
end
if #ids == 0 then return {{}, 0} end
local entries = redis.call('XCLAIM', key, group, consumer, idle, unpack(ids))
return {entries, #ids - #entries}
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
