-- May a job run now? As in rules.py: its own past and its id first, then a fresh answer, then somebody else's call;
-- if the way is clear, what the call needs is taken, all or nothing.
-- A call under way: "<started> <length of its guard> <entry>\n<guard, packed><record>". The record is what its process
-- packed, and is read only if the call goes wrong: {model, provider, bound, scopes, entry, key, tenant, id, price}. Of
-- a flight key that is held there is nothing to say.
local function read_open(text)
    if not text then return false end
    if text == '' then return true end
    local _, last, started, length, entry = string.find(text, '^(%d+) (%d+) (%S+)\n')
    local guard = length ~= '0' and cmsgpack.unpack(string.sub(text, last + 1, last + tonumber(length)))
    return {
        started = tonumber(started), guard = guard, entry = entry, text = string.sub(text, last + tonumber(length) + 1),
    }
end

local function open_text(row)
    if row == true then return '' end
    local guard = row.guard and cmsgpack.pack(row.guard) or ''
    return whole(row.started) .. ' ' .. #guard .. ' ' .. row.entry .. '\n' .. guard .. row.text
end

local flights = shelf({ hash = FLIGHTS })
local open = shelf({ hash = OPEN, parse = read_open })
local released = false -- has somebody who waits a reason to ask again?

local function expect_ask(ask)
    if ask.id then expect(ids, ask.id) end
    if ask.redelivered then
        redelivered[ask.entry] = true
        expect(outcomes, ask.entry)
    end
    if ask.op == 'check' then return end
    expect(flights, ask.key)
    if ask.cache_key then expect(answers, ask.cache_key) end
    local want = ask.want
    if not want then return end
    for _, scope in ipairs(want.scopes) do
        expect(balances, scope[ROW])
    end
    if want.rate then expect(windows, want.model) end
    if want.probe_until then expect(standings, want.model) end
end

-- What this entry's own past, or its client id's, answers; nil: nothing does.
local function identify(ask, now)
    local own = ask.redelivered and get(outcomes, ask.entry)
    if own then return { 'replay', own, true } end
    local id = ask.id and holder_of(ask.id, now)
    if not id then return nil end
    if id.entry == ask.entry then
        return id.outcome and { 'replay', id.outcome, true } or nil
    end
    if id.digest ~= ask.digest then return { 'conflict' } end
    if not id.outcome then return { 'id_busy', id.entry } end
    return { 'replay', id.outcome, false }
end

-- Take what the call needs of budgets, rates and the right to probe: all or nothing.
local function reserve(ask, prior, now, news)
    local want = ask.want
    if not want then return { 'clear', prior } end
    for place, scope in ipairs(want.scopes) do
        local refused = refusal(scope, want.bound)
        if refused then
            note_reached(scope, want.bound, refused, news)
            return { 'over_budget', place - 1, refused.spent, refused.held, refused.by_holds }
        end
    end
    local standing, guard = false, false
    if want.probe_until then
        local may
        may, standing = may_probe(want.model, now)
        if not may then return { 'unfit', as_told(want.model, standing) } end
    end
    local pace = false
    if want.rate then
        local fits
        fits, pace = take(want.model, want.rate, now)
        if not fits then return { 'throttled', pace } end
        guard = { second = math.floor(now / 1000), tokens = want.rate.tokens }
    end
    if standing then
        if give_probe(want.model, standing, want.attempt, want.probe_until) then
            guard = guard or {}
            guard.probe = true
        end
        standing = as_told(want.model, standing)
    end
    for _, scope in ipairs(want.scopes) do
        add(scope, 0, want.bound or 0)
    end
    put(open, 'a' .. want.attempt, { started = now, guard = guard, entry = ask.entry, text = ARGV[want.record] })
    return { 'granted', prior, standing, pace }
end

local function admit(ask, now, news)
    local prior = ask.redelivered and priors_of(ask.entry) or {}
    if ask.holding and get(flights, ask.key) == owner then return reserve(ask, prior, now, news) end
    local kept = ask.cache_key and get(answers, ask.cache_key)
    if kept and (kept.fresh_until > now or (ask.since and kept.created >= ask.since)) then
        return { 'hit', kept.text }
    end
    if get(flights, ask.key) then return { 'busy' } end
    if not ask.want then return { 'clear', prior } end
    local verdict = reserve(ask, prior, now, news)
    if verdict[1] == 'granted' then
        put(flights, ask.key, owner)
        put(open, 'k' .. ask.key, true)
    end
    return verdict
end

-- A call that was granted before, by books that are lost: it is under way, so it counts, whatever the limits say by now.
local function restore(ask, now)
    local want = ask.want
    local field = 'a' .. want.attempt
    if get(open, field) or redis.call('EXISTS', L .. ':lost:' .. want.attempt) == 1 then return end
    for _, scope in ipairs(want.scopes) do
        add(scope, 0, want.bound or 0)
    end
    put(open, field, { started = now, guard = false, entry = ask.entry, text = ARGV[want.record] })
    if not get(flights, ask.key) then
        put(flights, ask.key, owner)
        put(open, 'k' .. ask.key, true)
    end
    if ask.id and not holder_of(ask.id, now) then take_id(ask.id, ask.digest, ask.entry, false, now) end
end

-- Whose job may yet run holds its id.
local TAKES_ID = { clear = true, granted = true, busy = true, hit = true }

local function answer(ask, now, news)
    local verdict = identify(ask, now)
    if not verdict then
        verdict = ask.op == 'check' and { 'clear', {} } or admit(ask, now, news)
    end
    if ask.id and TAKES_ID[verdict[1]] and not holder_of(ask.id, now) then
        take_id(ask.id, ask.digest, ask.entry, false, now)
    end
    return verdict
end

local function flush_claims()
    flush_hash(flights)
    flush_hash(open, open_text)
    if released then redis.call('HINCRBY', L, 'released', 1) end
end
