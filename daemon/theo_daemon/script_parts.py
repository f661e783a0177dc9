"""What several Lua scripts ask of a consumer group."""

from __future__ import annotations

from typing import Final

LATER: Final = """
local function later(a, b)
    local ams, aseq = string.match(a, '^(%d+)-(%d+)$')
    local bms, bseq = string.match(b, '^(%d+)-(%d+)$')
    if ams ~= bms then return tonumber(ams) > tonumber(bms) end
    return tonumber(aseq) > tonumber(bseq)
end

-- The last id that the group has delivered; nil when there is no group.
local function delivered(key, group)
    local groups = redis.pcall('XINFO', 'GROUPS', key)
    for _, row in ipairs(groups.err and {} or groups) do
        local facts = {}
        for i = 1, #row, 2 do facts[row[i]] = row[i + 1] end
        if facts.name == group then return facts['last-delivered-id'] end
    end
end
"""

UNOWNED: Final = (
    LATER
    + """
-- Is an entry of the stream nobody's, though it was delivered? Then somebody else has acknowledged it, or deleted the
-- consumer that had it, and Redis will not deliver it again. `last` is what `delivered` says.
local function unowned(key, group, id, last)
    return last and not later(id, last) and #redis.call('XPENDING', key, group, id, id, 1) == 0
end
"""
)
