-- How calls and jobs end. Money moves from held to spent once for each attempt: only while it is open.
local function read_latency(text)
    local calls, total, last, prompt, completion = string.match(text or '', '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
    return {
        calls = tonumber(calls) or 0, total = tonumber(total) or 0, last = tonumber(last) or 0,
        prompt = tonumber(prompt) or 0, completion = tonumber(completion) or 0,
    }
end

local latencies = shelf({ hash = LATENCY, parse = read_latency })
local booked = {} -- scopes that were charged
local troubles = {} -- {stream, its length, words}: attempts that failed, or may have been billed for nothing

local function expect_landing(landing)
    local _, settled, cache, release, ends, for_waiters = unpack(landing, 1, 6)
    if settled then
        local attempt, model, state, _, _, scopes = unpack(settled, 1, 6)
        expect(open, 'a' .. attempt)
        for _, scope in ipairs(scopes_of[scopes]) do
            expect_balance(scope)
        end
        if state == 'ok' then expect(latencies, model) end
    end
    if cache then expect(answers, cache[1]) end
    if for_waiters then expect(answers, for_waiters[1]) end
    if release then expect(flights, release) end
    for _, job in ipairs(ends) do
        if job[3] then expect(ids, job[3]) end
    end
end

local function charge(scopes, spent, held)
    for _, scope in ipairs(scopes) do
        add(scope, spent, held)
        booked[#booked + 1] = scope
    end
end

local function add_latency(settled)
    local _, model, state, _, _, _, latency, prompt, completion = unpack(settled, 1, 9)
    if state ~= 'ok' then return end
    local sums = get(latencies, model)
    sums.calls, sums.total, sums.last = sums.calls + 1, sums.total + latency, latency
    sums.prompt, sums.completion = sums.prompt + prompt, sums.completion + completion
    put(latencies, model, sums)
end

-- As attempts are listed for people.
local function listed(attempt, state, cost, record, started, status, code, request)
    return {
        'attempt', attempt, 'model', record.model, 'provider', record.provider, 'state', state, 'entry', record.entry,
        'key', record.key, 'tenant', record.tenant or '', 'id', record.id or '', 'started_at', whole(started),
        'bound_nano', whole(record.bound or 0), 'cost_nano', whole(cost), 'price', record.price or '',
        'status_code', status or '', 'error_code', code or '', 'provider_request_id', request or '',
    }
end

-- An attempt that did not answer: listed with its job, and among those that people may ask about, a bounded number of
-- the latest. What has no model was no call.
local function note_trouble(attempt, state, cost, record, started, latency, status, code, request)
    add_prior(record.entry, {
        attempt, record.model, record.provider, state, cost, latency, status or false, code or false,
    })
    if record.model == '' then return end
    local doubtful = state ~= 'failed'
    troubles[#troubles + 1] = {
        doubtful and DOUBTFUL or FAILURES, doubtful and settings.doubtful or settings.failures,
        listed(attempt, state, cost, record, started, status, code, request),
    }
end

local SHOWS_USE = { ok = true, failed = true, void = true } -- of the others nobody knows what they used

-- A rate learns what was really used.
local function correct_rate(guard, model, state, used)
    if not guard.second or not SHOWS_USE[state] then return end
    local void = state == 'void'
    if not void and guard.tokens == 0 then return end
    local tokens = guard.tokens > 0 and (state == 'ok' and used or 0) - guard.tokens or 0
    correct(model, guard.second, void and -1 or 0, tokens, now)
end

local function close(call, settled)
    local attempt, model, state, cost, bound, scopes, latency, prompt, completion, status, code, request =
        unpack(settled, 1, 12)
    put(open, 'a' .. attempt, false)
    charge(scopes_of[scopes], cost, -(bound or 0))
    add_latency(settled)
    local started, entry, guard = read_call(call)
    if guard then
        if guard.probe then end_probe(model, attempt) end
        correct_rate(guard, model, state, prompt + completion)
    end
    if state == 'ok' then
        answered[entry] = { attempt, model, started }
    elseif state ~= 'void' then
        local record = cmsgpack.unpack(record_in(call))
        note_trouble(attempt, state, cost, record, started, latency, status, code, request)
    end
end

-- A job has an outcome, and the first of it counts: it may be out by now. Only the push that holds an id decides what the
-- id is answered.
local function end_job(job)
    local entry, outcome, id_name, digest, remember = unpack(job, 1, 5)
    if not outcome then return end
    outcome = ARGV[outcome]
    ended[entry] = true
    if not (remember and id_name) then
        if not get(outcomes, entry) then put(outcomes, entry, outcome) end
        return
    end
    local id = get(ids, id_name)
    if not id then
        take_id(id_name, digest, entry, outcome)
    else
        local holder, its_digest, taken, has_outcome = read_id(id)
        if holder == entry and not has_outcome then put(ids, id_name, id_text(taken, its_digest, entry, outcome)) end
    end
    released = true
end

local function land(landing)
    local _, settled, cache, release, ends, for_waiters = unpack(landing, 1, 6)
    local call = settled and get(open, 'a' .. settled[1])
    if call then close(call, settled) end
    if cache then keep_answer(cache, settled[2]) end
    if for_waiters then keep_answer(for_waiters, '*') end
    for _, job in ipairs(ends) do
        end_job(job)
    end
    if release and get(flights, release) == owner then
        put(flights, release, false)
        put(open, 'k' .. release, false)
        released = true
    end
end

-- Ids are let go last: a job may end while its own ask is in this very batch, and would take its id again. That of an
-- entry which Redis has lost goes on belonging to it while a call for it is out.
local function free_ids(landing)
    for _, job in ipairs(landing[5]) do
        local entry, _, id_name, _, remember, vanished = unpack(job, 1, 6)
        local id = id_name and not remember and get(ids, id_name)
        if id then
            local holder, _, _, outcome = read_id(id)
            if holder == entry and not outcome and not (vanished and call_is_out(entry)) then
                put(ids, id_name, false)
                released = true
            end
        end
    end
end

local function forget(operation)
    for _, entry in ipairs(operation[2]) do
        put(outcomes, entry, false)
    end
end

local function tell_of_booked(news)
    for _, scope in ipairs(booked) do
        note_booked(scope, news)
    end
    booked = {}
end

local function flush_landings()
    flush_hash(latencies, function(sums)
        return string.format('%.0f %.17g %.17g %.0f %.0f', sums.calls, sums.total, sums.last, sums.prompt, sums.completion)
    end)
    for _, trouble in ipairs(troubles) do
        redis.call('XADD', trouble[1], 'MAXLEN', '~', trouble[2], '*', unpack(trouble[3]))
    end
end
