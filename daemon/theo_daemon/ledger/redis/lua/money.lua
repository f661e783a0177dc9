-- Budgets: what is spent and what is held by calls under way, in whole nano-dollars. Lua's numbers are exact up to
-- 2^53 of them, which is 9 million dollars; ceilings above that are refused when a process starts.
local ROW, CEILING, RESET, WARN = 1, 2, 3, 4 -- of a scope, as a batch brings it; false where there is none

local function read_balance(text)
    if not text then return { spent = 0, held = 0, warned = '0', exhausted = '0', new = true } end
    local spent, held, warned, exhausted = string.match(text, '^(%S+) (%S+) (%d) (%d)$')
    return { spent = tonumber(spent), held = tonumber(held), warned = warned, exhausted = exhausted }
end

local balances = shelf({ hash = SPEND, parse = read_balance })
local new_rows = {} -- scopes whose row is made by this batch

local function keep_balance(scope, balance)
    if balance.new then
        balance.new = nil
        new_rows[#new_rows + 1] = scope
    end
    put(balances, scope[ROW], balance)
end

local function add(scope, spent, held)
    if spent == 0 and held == 0 then return end
    local balance = get(balances, scope[ROW])
    balance.spent, balance.held = balance.spent + spent, balance.held + held
    keep_balance(scope, balance)
end

-- Why a call of this bound (false: unknown) may not draw on the scope: nil, or is it for holds alone?
-- Under a ceiling of 0 even what is free is forbidden.
local function refusal(scope, bound)
    local ceiling = scope[CEILING]
    if not ceiling then return nil end
    local balance, by_holds = get(balances, scope[ROW]), false
    if bound and ceiling > 0 then
        local left = ceiling - balance.spent - bound
        if left >= balance.held then return nil end
        by_holds = left >= 0
    end
    return { spent = balance.spent, held = balance.held, by_holds = by_holds }
end

-- Each is told once for a window, by one process.
local function note_reached(scope, bound, refused, news)
    if refused.by_holds or not bound then return end
    local balance = get(balances, scope[ROW])
    if balance.exhausted == '1' then return end
    balance.exhausted = '1'
    keep_balance(scope, balance)
    news[#news + 1] = { 'reached', scope, balance.spent }
end

local function note_near(scope, news)
    local warn = scope[WARN]
    local balance = warn and get(balances, scope[ROW])
    if not warn or balance.spent < warn or balance.warned == '1' then return end
    balance.warned = '1'
    keep_balance(scope, balance)
    news[#news + 1] = { 'near', scope, balance.spent }
end

local function flush_money()
    flush_hash(balances, function(balance)
        return whole(balance.spent) .. ' ' .. whole(balance.held) .. ' ' .. balance.warned .. ' ' .. balance.exhausted
    end)
    for _, scope in ipairs(new_rows) do
        local model = string.match(scope[ROW], '^0 model:(.+)$')
        if model then redis.call('SADD', MODELS, model) end
        if scope[RESET] then redis.call('ZADD', WINDOWS, whole(scope[RESET] + settings.keep_ms), scope[ROW]) end
    end
end
