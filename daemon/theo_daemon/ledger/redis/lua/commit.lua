-- A batch of one owner, in the order in which the file's ledger applies it: what is not of single jobs, then
-- landings, then asks, which see what the landings brought. Returns, packed: {'done', did it change anything, verdicts,
-- news}; or {'fenced'} to who is not among the living; or {'behind', token} where the last batch that is known is
-- older than the last one that was answered: this server has lost what followed.
refuse_while_moving()

local function flush_all()
    flush_money()
    flush_claims()
    flush_rates()
    flush_standings()
    flush_ids()
    flush_outcomes()
    flush_priors()
    flush_answers()
    flush_landings()
    flush_deaths()
end

if redis.call('HGET', OWNERS, owner) ~= name then
    local seen = {}
    for _, operation in ipairs(operations) do
        if operation[1] == 'land' then correct_lost(operation, seen) end
    end
    flush_all()
    for attempt in pairs(seen) do
        redis.call('DEL', L .. ':lost:' .. attempt)
    end
    return cmsgpack.pack({ 'fenced' })
end

-- A batch whose answer was lost on the way comes again under its token: what it did is not done twice. Verdicts that
-- changed nothing and may be long are not kept: those operations are simply asked again.
local DONE, LONG = { 'done' }, { hit = true, replay = true }
local before = redis.call('HMGET', OWNER, 'batch', 'reply')
local told, news = {}, {}
if before[1] == token then
    told, news = unpack(cmsgpack.unpack(before[2]))
elseif (before[1] or '0') ~= last_token then
    return cmsgpack.pack({ 'behind', before[1] or '0' })
end

local verdicts, todo = {}, {}
for place, operation in ipairs(operations) do
    if told[place] then
        verdicts[place] = told[place]
    else
        todo[#todo + 1] = place
        local kind = operation[1]
        if kind == 'ask' or kind == 'check' or kind == 'restore' then
            expect_ask(operation)
        elseif kind == 'land' then
            expect_landing(operation)
        end
    end
end

local function each(kinds, act)
    for _, place in ipairs(todo) do
        local operation = operations[place]
        if kinds[operation[1]] then verdicts[place] = act(operation) or DONE end
    end
end

-- Changes before landings: what a probe showed is known before its right to probe ends.
each({ change = true, health = true, bury = true }, function(operation)
    local kind, what = operation[1], operation[2]
    if kind == 'bury' then return bury(what, news) end
    if kind == 'health' then return add_health(what) end
    local row, is_news = after_change(what, now)
    if is_news then note_shut(what.model, row, now) end
    return { 'changed', as_told(what.model, row), is_news }
end)
tell_of_booked(news)
each({ restore = true }, restore)
each({ land = true }, land)
tell_of_booked(news)
-- After the landings, so that an answer that lies in the batch, too, ends the row of failures.
each({ failure = true }, function(failure)
    local model = failure[2]
    local row, is_news = count_failure(failure, get(latencies, model).calls, now)
    if is_news then note_shut(model, row, now) end
    return { 'changed', as_told(model, row), is_news }
end)
each({ forget = true }, forget)
each({ ask = true, check = true }, function(ask) return answer(ask, news) end)
each({ land = true }, free_ids)

local function anything_changed()
    for _, rows in ipairs(shelves) do
        if #rows.changed > 0 then return true end
    end
    return #buried > 0
end

-- The first write is one that a server out of memory refuses; those that follow are then not refused any more.
local changed = anything_changed() or before[1] == token
if changed then
    local kept = {}
    for place, verdict in ipairs(verdicts) do
        kept[place] = not LONG[verdict[1]] and verdict
    end
    redis.call('HSET', OWNER, 'batch', token, 'reply', cmsgpack.pack({ kept, news }))
    flush_all()
end
return cmsgpack.pack({ 'done', changed, verdicts, news })
