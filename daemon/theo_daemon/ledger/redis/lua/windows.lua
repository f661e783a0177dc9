-- The row of a window goes. If it was its scope's last one, the window before runs again, if that has a row still.
local function drop_window(row)
    redis.call('HDEL', SPEND, row)
    redis.call('ZREM', WINDOWS, row)
    local start, name = string.match(row, '^(%d+) (.+)$')
    local last, before = string.match(redis.call('HGET', RUNNING, name) or '', '^(%d+) %d+ ?(.*)$')
    if last ~= start then return end
    local before_start = string.match(before, '^%d+')
    if before_start and redis.call('HEXISTS', SPEND, before_start .. ' ' .. name) == 1 then
        redis.call('HSET', RUNNING, name, before)
    else
        redis.call('HDEL', RUNNING, name)
    end
end
