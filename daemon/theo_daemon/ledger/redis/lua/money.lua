-- Budgets: what is spent and what is held by calls under way, in whole nano-dollars. Lua's numbers are exact up to
-- 2^53 of them, which is 9 million dollars; ceilings above that are refused when a process starts.
-- A balance is a text, "<spent> <held> <told: near, reached, eased> <when its window ends, 0: never>".
local ROW, CEILING, RESET, WARN, EASE = 1, 2, 3, 4, 5 -- of a scope, as a batch brings it; false where there is none

local function read_balance(text)
    if not text then return { spent = 0, held = 0, near = '0', reached = '0', eased = '0', new = true } end
    local spent, held, near, reached, eased, reset = string.match(text, '^(%S+) (%S+) (%d)(%d)(%d) (%d+)$')
    return {
        spent = tonumber(spent), held = tonumber(held), near = near, reached = reached, eased = eased, reset = reset,
    }
end

local balances = shelf({ hash = SPEND, parse = read_balance })
local new_rows = {} -- scopes whose row is made by this batch

-- -- windows --

-- "<start> <reset>", and the same of the window before, for the case that this one is taken back.
local function read_window(text)
    if not text then return false end
    local start, reset = string.match(text, '^(%d+) (%d+)')
    return { start = tonumber(start), reset = tonumber(reset) }
end

local last_windows = shelf({ hash = RUNNING, parse = read_window }) -- by the scope's name

local function name_and_start(scope)
    local start, name = string.match(scope[ROW], '^(%d+) (.+)$')
    return name, tonumber(start)
end

local function expect_balance(scope)
    expect(balances, scope[ROW])
    if scope[RESET] then expect(last_windows, (name_and_start(scope))) end
end

-- The window that the call must count in, if it is not the one that its process believes to run.
local function other_window(scope)
    if not scope[RESET] then return nil end
    local name, start = name_and_start(scope)
    local last = get(last_windows, name)
    if not last or start == last.start or start >= last.reset then return nil end
    return { 'other_window', name, last.start, last.reset }
end

-- A window runs from its first row on; what still ends in an older one does not bring that back.
local function begin_window(scope)
    local name, start = name_and_start(scope)
    local last = get(last_windows, name)
    if last and last.start >= start then return end
    put(last_windows, name, { start = start, reset = scope[RESET], before = last })
end

-- -- balances --

local function keep_balance(scope, balance)
    if balance.new then
        balance.new = nil
        balance.reset = whole(scope[RESET] or 0)
        new_rows[#new_rows + 1] = scope
        if scope[RESET] then begin_window(scope) end
    end
    put(balances, scope[ROW], balance)
end

local function add(scope, spent, held)
    if spent == 0 and held == 0 then return end
    local balance = get(balances, scope[ROW])
    balance.spent, balance.held = balance.spent + spent, balance.held + held
    keep_balance(scope, balance)
end

-- Hold the bound in every scope. The places of those that have spent as much as makes groups prefer cheaper members.
local function hold_in(scopes, bound)
    local strained = false
    for place, scope in ipairs(scopes) do
        add(scope, 0, bound or 0)
        if scope[EASE] and get(balances, scope[ROW]).spent >= scope[EASE] then
            strained = strained or {}
            strained[#strained + 1] = place - 1
        end
    end
    return strained
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
    local ends = by_holds and -1 or scope[RESET] or math.huge -- what is only held ends first
    return { spent = balance.spent, held = balance.held, by_holds = by_holds, ends = ends }
end

-- -- news: each is told once for a window, by one process --

local function note(scope, balance, sign, what, news)
    if balance[sign] == '1' then return end
    balance[sign] = '1'
    keep_balance(scope, balance)
    news[#news + 1] = { what, scope, balance.spent }
end

local function note_reached(scope, bound, refused, news)
    if refused.by_holds or not bound then return end
    note(scope, get(balances, scope[ROW]), 'reached', 'reached', news)
end

local function note_booked(scope, news)
    local warn, ease = scope[WARN], scope[EASE]
    if not warn and not ease then return end
    local balance = get(balances, scope[ROW])
    if ease and balance.spent >= ease then note(scope, balance, 'eased', 'eased', news) end
    if warn and balance.spent >= warn then note(scope, balance, 'near', 'near', news) end
end

-- -- writing --

local function balance_text(one)
    return whole(one.spent) .. ' ' .. whole(one.held) .. ' ' .. one.near .. one.reached .. one.eased .. ' ' .. one.reset
end

local function window_text(one)
    local text = whole(one.start) .. ' ' .. whole(one.reset)
    return one.before and text .. ' ' .. whole(one.before.start) .. ' ' .. whole(one.before.reset) or text
end

local function flush_money()
    flush_hash(balances, balance_text)
    flush_hash(last_windows, window_text)
    for _, scope in ipairs(new_rows) do
        local model = string.match(scope[ROW], '^0 model:(.+)$')
        if model then redis.call('HSET', MODELS, model, '') end
        redis.call('ZADD', WINDOWS, scope[RESET] and whole(scope[RESET]) or '+inf', scope[ROW])
    end
end
