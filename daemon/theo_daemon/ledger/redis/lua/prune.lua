-- Drop what is too old to matter, a little at a time. ARGV: 1 most windows to look at   2 ms that history is kept
-- Returns how many windows were looked at. Ids, outcomes and answers expire by themselves.
local now, keep = time_now(''), tonumber(ARGV[2])

local function drop(row)
    redis.call('HDEL', SPEND, row)
    redis.call('ZREM', WINDOWS, row)
    local start, name = string.match(row, '^(%d+) (.+)$')
    local last = string.match(redis.call('HGET', RUNNING, name) or '', '^%d+')
    if last == start then redis.call('HDEL', RUNNING, name) end
end

local over = redis.call('ZRANGEBYSCORE', WINDOWS, '-inf', whole(now - keep), 'LIMIT', 0, ARGV[1])
for _, row in ipairs(over) do
    local held = string.match(redis.call('HGET', SPEND, row) or '', '^%S+ (%S+)')
    if held and held ~= '0' then
        redis.call('ZADD', WINDOWS, whole(now), row) -- calls under way hold something there: later
    else
        drop(row)
    end
end
for _, stream in ipairs({ DOUBTFUL, FAILURES }) do
    redis.call('XTRIM', stream, 'MINID', '~', whole(now - keep), 'LIMIT', 1000)
end
return #over
