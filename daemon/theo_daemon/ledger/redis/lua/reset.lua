-- Set what these budgets have spent to 0. ARGV: their rows. What calls under way hold stays held; a window that a clock
-- began before its time is taken back, unless something is held in it. Returns the number of those that had spent
-- anything.
local now, changed = time_now(''), 0

local function take_back(row, name, start)
    redis.call('HDEL', SPEND, row)
    redis.call('ZREM', WINDOWS, row)
    local last, before = string.match(redis.call('HGET', RUNNING, name) or '', '^(%d+) %d+ ?(.*)$')
    if last ~= start then return end
    if before == '' then
        redis.call('HDEL', RUNNING, name)
    else
        redis.call('HSET', RUNNING, name, before)
    end
end

for _, row in ipairs(ARGV) do
    local balance = redis.call('HGET', SPEND, row)
    local spent, held, reset = string.match(balance or '', '^(%S+) (%S+) %d+ (%d+)$')
    if spent and spent ~= '0' then
        redis.call('HSET', SPEND, row, '0 ' .. held .. ' 000 ' .. reset)
        changed = changed + 1
    end
    local start, name = string.match(row, '^(%d+) (.+)$')
    if held == '0' and tonumber(start) > now then take_back(row, name, start) end
end
return changed
