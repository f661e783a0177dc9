-- An owner whose lease ran out: nobody knows whether its calls were billed, so they are, at their bound; its keys are
-- free. From the same moment it may write nothing: it finds itself missing among the owners.
local buried = {}
local lost = {} -- attempt -> when it was sent and its record, for the case that its process only seemed dead

local function lapsed(dead, now)
    if dead == owner then return nil end
    local dead_name = redis.call('HGET', OWNERS, dead)
    if not dead_name then return nil end
    local grace = tonumber(redis.call('HGET', L, 'grace') or 0)
    local lease = tonumber(redis.call('ZSCORE', LEASES, dead) or 0)
    if lease > now or (grace > now and lease > 0) then return nil end -- 0: it left, and said so
    return dead_name
end

local function book_lost(number, attempt, record, why, news)
    local bound = record.bound or 0
    charge(record.scopes, bound, -bound)
    if attempt.guard and attempt.guard.probe then end_probe(record.model, number) end
    note_trouble(number, 'unknown', bound, record, attempt.started, { error = why })
    lost[number] = whole(attempt.started) .. '\n' .. attempt.text
    if record.model ~= '' then
        news[#news + 1] = { 'lost', record.entry, number, record.model, record.provider, bound }
    end
end

-- If it was rehearsing a job (an attempt without a model), it died of that one; its other calls only ran beside it.
local function book_all_lost(attempts, news)
    local records, beside = {}, nil
    for number, attempt in pairs(attempts) do
        records[number] = cmsgpack.unpack(attempt.text)
        if records[number].model == '' then beside = 'beside_rehearsal' end
    end
    for number, attempt in pairs(attempts) do
        book_lost(number, attempt, records[number], records[number].model ~= '' and beside or nil, news)
    end
end

-- Its name; nil when it lives, or was buried before.
local function bury(dead, now, news)
    local dead_name = lapsed(dead, now)
    if not dead_name then return { 'alive' } end
    local left, attempts = redis.call('HGETALL', L .. ':open:' .. dead), {}
    for i = 1, #left, 2 do
        local kind, what = string.sub(left[i], 1, 1), string.sub(left[i], 2)
        if kind == 'a' then
            attempts[what] = read_open(left[i + 1])
        elseif get(flights, what) == dead then
            put(flights, what, false)
        end
    end
    book_all_lost(attempts, news)
    buried[#buried + 1] = dead
    released = true
    return { 'buried', dead_name }
end

local function flush_deaths()
    for _, dead in ipairs(buried) do
        redis.call('HDEL', OWNERS, dead)
        redis.call('ZREM', LEASES, dead)
        delete_all({ L .. ':owner:' .. dead, L .. ':open:' .. dead })
    end
    for number, record in pairs(lost) do
        redis.call('SET', L .. ':lost:' .. number, record, 'PX', settings.late_ms)
    end
end

-- The last word of an owner that was buried: what it knows of its calls by now replaces what was charged for them.
-- Nothing else of what it asks is done.
local function correct_lost(landing, seen)
    local one = landing.settled
    local text = one and not seen[one.attempt] and redis.call('GET', L .. ':lost:' .. one.attempt)
    if not text then return end
    seen[one.attempt] = true
    local started, record = string.match(text, '^(%d+)\n(.*)$')
    record = cmsgpack.unpack(record)
    charge(record.scopes, one.cost - (record.bound or 0), 0)
    add_latency(one)
    local late = { error = 'late_answer' }
    note_trouble(one.attempt, 'unknown', one.cost, record, tonumber(started), late)
    if redis.call('EXISTS', L .. ':prior:' .. record.entry) == 0 then new_priors[record.entry] = nil end -- it has ended
end
