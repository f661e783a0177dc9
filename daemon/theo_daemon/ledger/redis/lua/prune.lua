-- Drop what is too old to matter, a little at a time. ARGV: 1 most windows to look at   2 ms that history is kept
-- 3 '' (in tests, the time). Returns how many windows were looked at. Ids, outcomes and answers expire by themselves.
local LATER_MS = 3600000
local now, keep = time_now(ARGV[3]), tonumber(ARGV[2])
local over = redis.call('ZRANGEBYSCORE', WINDOWS, '-inf', whole(now - keep), 'LIMIT', 0, ARGV[1])
for _, row in ipairs(over) do
    local held = string.match(redis.call('HGET', SPEND, row) or '', '^%S+ (%S+)')
    if held and held ~= '0' then
        redis.call('ZADD', WINDOWS, whole(now - keep + LATER_MS), row) -- calls under way hold something there
    else
        drop_window(row)
    end
end
for _, stream in ipairs({ DOUBTFUL, FAILURES }) do
    redis.call('XTRIM', stream, 'MINID', '~', whole(now - keep), 'LIMIT', 1000)
end
return #over
