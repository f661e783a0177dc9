-- Set what these budgets have spent to 0. ARGV: 1 '' (in tests, the time)   2... their rows. What calls under way hold
-- stays held; a window that a clock began before its time is taken back, unless something is held in it. Returns the
-- number of those that had spent anything.
local now, changed = time_now(ARGV[1]), 0
for place = 2, #ARGV do
    local row = ARGV[place]
    local spent, held, reset = string.match(redis.call('HGET', SPEND, row) or '', '^(%S+) (%S+) %d+ (%d+)$')
    if spent and spent ~= '0' then
        redis.call('HSET', SPEND, row, '0 ' .. held .. ' 000 ' .. reset)
        changed = changed + 1
    end
    if held == '0' and tonumber(string.match(row, '^%d+')) > now then drop_window(row) end
end
return changed
