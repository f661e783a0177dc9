-- May a job run now? As in rules.py: its own past and its id first, then a fresh answer, then somebody else's call;
-- if the way is clear, what the call needs is taken, all or nothing.
-- A call under way is a text, "<started> <length of its guard> <entry>\n<guard, packed><record>". The record is what its
-- process packed, and is read only if the call goes wrong: {model, provider, bound, scopes, entry, key, tenant, id,
-- price}. Of a flight key that is held there is nothing to say.
local function call_text(guard, entry, record)
    guard = guard and cmsgpack.pack(guard) or ''
    return NOW .. ' ' .. #guard .. ' ' .. entry .. '\n' .. guard .. record
end

-- When it was sent, its entry, what guards it, and where its record begins.
local function read_call(text)
    local _, last, started, length, entry = string.find(text, '^(%d+) (%d+) (%S+)\n')
    length = tonumber(length)
    local guard = length > 0 and cmsgpack.unpack(string.sub(text, last + 1, last + length))
    return tonumber(started), entry, guard, last + length + 1
end

local function record_in(text)
    local _, _, _, first = read_call(text)
    return string.sub(text, first)
end

local flights = shelf({ hash = FLIGHTS })
local open = shelf({ hash = OPEN })
local NONE = {}
local released = false -- has somebody who waits a reason to ask again?

-- Is somebody's call for this entry under way? This looks through all of them, which only the rare loss of an entry asks for.
local function call_is_out(entry)
    for _, one in ipairs(redis.call('HKEYS', OWNERS)) do
        local calls = redis.call('HGETALL', L .. ':open:' .. one)
        for i = 1, #calls, 2 do
            local field, call = calls[i], calls[i + 1]
            if one == owner and open.marked and open.marked[field] then call = false end -- what it is by now follows below
            if string.sub(field, 1, 1) == 'a' and call and select(2, read_call(call)) == entry then return true end
        end
    end
    for _, field in ipairs(open.changed) do
        local call = string.sub(field, 1, 1) == 'a' and open.rows[field]
        if call and select(2, read_call(call)) == entry then return true end
    end
    return false
end

local function expect_ask(ask)
    local kind, entry, key, again, _, cache_key, id, _, _, want = unpack(ask, 1, 10)
    if id then expect(ids, id) end
    if again then
        redelivered[entry] = true
        expect(outcomes, entry)
    end
    if kind == 'check' then return end
    expect(flights, key)
    if cache_key then expect(answers, cache_key) end
    if not want then return end
    local _, model, _, scopes, _, probe_until, rpm, tpm = unpack(want, 1, 8)
    for _, scope in ipairs(scopes_of[scopes]) do
        expect_balance(scope)
    end
    if rpm or tpm then expect(windows, model) end
    if probe_until then expect(standings, model) end
end

-- What this entry's own past, or its client id's, answers; nil: nothing does.
local function identify(entry, again, id_name, digest)
    local own = again and get(outcomes, entry)
    if own then return { 'replay', told_text('outcome', entry, own, 1), true } end
    local id = id_name and known_id(id_name)
    if not id then return nil end
    local holder, its_digest, _, outcome = read_id(id)
    if holder == entry then
        return outcome and { 'replay', told_text('id', id_name, id, outcome), true } or nil
    end
    if its_digest ~= digest then return { 'conflict' } end
    if not outcome then return { 'id_busy', holder } end
    return { 'replay', told_text('id', id_name, id, outcome), false }
end

-- What its budgets say against the call, of several refusals the one that ends last; nil: nothing.
local function over_budget(scopes, bound, news)
    local longest = nil
    for place, scope in ipairs(scopes) do
        local other = other_window(scope)
        if other then return other end
        local refused = refusal(scope, bound)
        if refused then
            note_reached(scope, bound, refused, news)
            refused.place = place - 1
            if not longest or refused.ends > longest.ends then longest = refused end
        end
    end
    return longest and { 'over_budget', longest.place, longest.spent, longest.held, longest.by_holds }
end

-- Take what the call needs of budgets, rates and the right to probe: all or nothing.
local function reserve(entry, want, prior, news)
    if not want then return { 'clear', prior } end
    local attempt, model, bound, scopes, record, probe_until, rpm, tpm, tokens = unpack(want, 1, 9)
    scopes = scopes_of[scopes]
    local refused = over_budget(scopes, bound, news)
    if refused then return refused end
    local standing, pace, guard = false, false, false
    if probe_until then
        local may
        may, standing = may_probe(model, now)
        if not may then return { 'unfit', as_told(model, standing) } end
    elseif shut[model] then
        return { 'unfit', as_told(model, get(standings, model)) }
    end
    if rpm or tpm then
        local fits
        fits, pace = take(model, { rpm = rpm, tpm = tpm, tokens = tokens }, now)
        if not fits then return { 'throttled', pace } end
        guard = { second = math.floor(now / 1000), tokens = tokens }
    end
    if standing then
        if give_probe(model, standing, attempt, probe_until, now) then
            guard = guard or {}
            guard.probe = true
        end
        standing = as_told(model, standing)
    end
    local strained = hold_in(scopes, bound)
    put(open, 'a' .. attempt, call_text(guard, entry, ARGV[record]))
    return { 'granted', prior, standing, pace, strained }
end

local function hold(key)
    put(flights, key, owner)
    put(open, 'k' .. key, '')
end

local function admit(ask, news)
    local _, entry, key, again, holding, cache_key, _, _, since, want = unpack(ask, 1, 10)
    local prior = again and priors_of(entry) or NONE
    if holding and get(flights, key) == owner then return reserve(entry, want, prior, news) end
    local kept = cache_key and get(answers, cache_key)
    if kept and (kept.fresh_until > now or (since and kept.created >= since)) then
        return { 'hit', told_text('answer', cache_key, kept.text, kept.first), prior }
    end
    if get(flights, key) then return { 'busy' } end
    local verdict = reserve(entry, want, prior, news)
    if verdict[1] == 'granted' then hold(key) end
    return verdict
end

-- A call that was granted before, by books that are lost: it is under way, so it counts, whatever the limits say by now.
local function restore(ask)
    local _, entry, key, _, _, _, id, digest, _, want = unpack(ask, 1, 10)
    local attempt, _, bound, scopes, record = unpack(want, 1, 5)
    local field = 'a' .. attempt
    if get(open, field) or redis.call('EXISTS', L .. ':lost:' .. attempt) == 1 then return end
    for _, scope in ipairs(scopes_of[scopes]) do
        add(scope, 0, bound or 0)
    end
    put(open, field, call_text(false, entry, ARGV[record]))
    if not get(flights, key) then hold(key) end
    if id and not known_id(id) then take_id(id, digest, entry) end
end

-- Whose job may yet run holds its id.
local TAKES_ID = { clear = true, granted = true, busy = true, hit = true }

local function answer(ask, news)
    local kind, entry, _, again, _, _, id, digest = unpack(ask, 1, 8)
    local verdict = (id or again) and identify(entry, again, id, digest)
    if not verdict then
        verdict = kind == 'check' and { 'clear', again and priors_of(entry) or NONE } or admit(ask, news)
    end
    if id and TAKES_ID[verdict[1]] and not known_id(id) then take_id(id, digest, entry) end
    return verdict
end

local function flush_claims()
    flush_hash(flights)
    flush_hash(open)
    if released then redis.call('HINCRBY', L, 'released', 1) end
end
