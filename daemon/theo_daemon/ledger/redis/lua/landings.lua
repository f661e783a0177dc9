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
    local settled = landing.settled
    if settled then
        expect(open, 'a' .. settled.attempt)
        for _, scope in ipairs(settled.scopes) do
            expect(balances, scope[ROW])
        end
        if settled.state == 'ok' then expect(latencies, settled.model) end
    end
    if landing.cache then expect(answers, landing.cache.key) end
    if landing.release then expect(flights, landing.release) end
    for _, job in ipairs(landing.ends or {}) do
        if job.id then expect(ids, job.id) end
    end
end

local function charge(scopes, spent, held)
    for _, scope in ipairs(scopes) do
        add(scope, spent, held)
        booked[#booked + 1] = scope
    end
end

local function add_latency(one)
    if one.state ~= 'ok' then return end
    local sums = get(latencies, one.model)
    sums.calls, sums.total, sums.last = sums.calls + 1, sums.total + one.latency, one.latency
    sums.prompt, sums.completion = sums.prompt + one.prompt, sums.completion + one.completion
    put(latencies, one.model, sums)
end

-- As attempts are listed for people. `one`: how it ended; `record`: what it was.
local function listed(number, state, cost, record, started, one)
    return {
        'attempt', number, 'model', record.model, 'provider', record.provider, 'state', state, 'entry', record.entry,
        'key', record.key, 'tenant', record.tenant or '', 'id', record.id or '', 'started_at', whole(started),
        'bound_nano', whole(record.bound or 0), 'cost_nano', whole(cost), 'price', record.price or '',
        'status_code', one.status or '', 'error_code', one.error or '', 'provider_request_id', one.request or '',
    }
end

-- An attempt that did not answer: listed with its job, and among those that people may ask about, a bounded number of
-- the latest. What has no model was no call.
local function note_trouble(number, state, cost, record, started, one)
    add_prior(record.entry, {
        number, record.model, record.provider, state, cost, one.latency or 0, one.status or false, one.error or false,
    })
    if record.model == '' then return end
    local doubtful = state ~= 'failed'
    troubles[#troubles + 1] = {
        doubtful and DOUBTFUL or FAILURES, doubtful and settings.doubtful or settings.failures,
        listed(number, state, cost, record, started, one),
    }
end

local SHOWS_USE = { ok = true, failed = true, void = true } -- of the others nobody knows what they used

-- A rate learns what was really used.
local function correct_rate(guard, one, now)
    if not guard.second or not SHOWS_USE[one.state] then return end
    local void = one.state == 'void'
    if not void and guard.tokens == 0 then return end
    local used = one.state == 'ok' and one.prompt + one.completion or 0
    local tokens = guard.tokens > 0 and used - guard.tokens or 0
    correct(one.model, guard.second, void and -1 or 0, tokens, now)
end

local function close(attempt, one, now)
    put(open, 'a' .. one.attempt, false)
    charge(one.scopes, one.cost, -(one.bound or 0))
    add_latency(one)
    if attempt.guard then
        if attempt.guard.probe then end_probe(one.model, one.attempt) end
        correct_rate(attempt.guard, one, now)
    end
    if one.state == 'ok' then
        answered[attempt.entry] = {
            'attempt', one.attempt, 'model', one.model, 'state', 'ok', 'entry', attempt.entry,
            'started_at', whole(attempt.started),
        }
    elseif one.state ~= 'void' then
        note_trouble(one.attempt, one.state, one.cost, cmsgpack.unpack(attempt.text), attempt.started, one)
    end
end

-- A job has an outcome. Only the push that holds an id decides what the id is answered.
local function end_job(job, now)
    if not job.outcome then return end
    local outcome = ARGV[job.outcome]
    ended[job.entry] = true
    if not (job.remember and job.id) then
        if not get(outcomes, job.entry) then put(outcomes, job.entry, outcome) end
        return
    end
    local id = get(ids, job.id)
    if not id then
        take_id(job.id, job.digest, job.entry, outcome, now)
    elseif id.entry == job.entry then
        id.outcome = outcome
        put(ids, job.id, id)
    end
    released = true
end

local function land(landing, now)
    local one = landing.settled
    local attempt = one and get(open, 'a' .. one.attempt)
    if attempt then close(attempt, one, now) end
    if landing.cache then keep_answer(landing.cache, now) end
    for _, job in ipairs(landing.ends or {}) do
        end_job(job, now)
    end
    if landing.release and get(flights, landing.release) == owner then
        put(flights, landing.release, false)
        put(open, 'k' .. landing.release, false)
        released = true
    end
end

-- Ids are let go last: a job may end while its own ask is in this very batch, and would take its id again.
local function free_ids(landing)
    for _, job in ipairs(landing.ends or {}) do
        local id = job.id and not job.remember and get(ids, job.id)
        if id and id.entry == job.entry and not id.outcome then
            put(ids, job.id, false)
            released = true
        end
    end
end

local function forget(operation)
    for _, entry in ipairs(operation.entries) do
        put(outcomes, entry, false)
    end
end

local function tell_of_booked(news)
    for _, scope in ipairs(booked) do
        note_near(scope, news)
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
