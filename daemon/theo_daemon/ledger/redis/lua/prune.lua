-- Drop what is too old to matter, a little at a time. ARGV: 1 most windows to drop   2 ms that attempts are kept
-- Returns how many windows were dropped. Ids, outcomes and answers expire by themselves.
local now = time_now('')
local over = redis.call('ZRANGEBYSCORE', WINDOWS, '-inf', whole(now), 'LIMIT', 0, ARGV[1])
if #over > 0 then
    redis.call('HDEL', SPEND, unpack(over))
    redis.call('ZREM', WINDOWS, unpack(over))
end
for _, stream in ipairs({ DOUBTFUL, FAILURES }) do
    redis.call('XTRIM', stream, 'MINID', '~', whole(now - tonumber(ARGV[2])), 'LIMIT', 1000)
end
return #over
