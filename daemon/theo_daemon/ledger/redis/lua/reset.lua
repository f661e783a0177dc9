-- Set what these budgets have spent to 0. ARGV: their rows. What calls under way hold stays held. Returns the number
-- of those that had spent anything.
local changed = 0
for _, row in ipairs(ARGV) do
    local balance = redis.call('HGET', SPEND, row)
    local spent, held = string.match(balance or '', '^(%S+) (%S+) %d %d$')
    if spent and spent ~= '0' then
        redis.call('HSET', SPEND, row, '0 ' .. held .. ' 0 0')
        changed = changed + 1
    end
end
return changed
