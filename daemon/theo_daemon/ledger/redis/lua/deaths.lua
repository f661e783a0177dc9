-- An owner whose lease ran out: nobody knows whether its calls were billed, so they are, at their bound; its keys are
-- free. From the same moment it may write nothing: it finds itself missing among the owners.
local buried = {}
local lost = {} -- attempt -> the call, for the case that its process only seemed dead

local function lapsed(dead)
    if dead == owner then return nil end
    local dead_name = redis.call('HGET', OWNERS, dead)
    if not dead_name then return nil end
    local grace = tonumber(redis.call('HGET', L, 'grace') or 0)
    local lease = tonumber(redis.call('ZSCORE', LEASES, dead) or 0)
    if lease > now or (grace > now and lease > 0) then return nil end -- 0: it left, and said so
    return dead_name
end

local function book_lost(number, call, record, why, news)
    local bound = record.bound or 0
    local started, _, guard = read_call(call)
    charge(record.scopes, bound, -bound)
    if guard and guard.probe then end_probe(record.model, number) end
    note_trouble(number, 'unknown', bound, record, started, 0, nil, why)
    lost[number] = call
    if record.model ~= '' then
        news[#news + 1] = { 'lost', record.entry, number, record.model, record.provider, bound }
    end
end

-- If it was rehearsing a job (an attempt without a model), it died of that one; its other calls only ran beside it.
local function book_all_lost(calls, news)
    local records, beside = {}, nil
    for number, call in pairs(calls) do
        records[number] = cmsgpack.unpack(record_in(call))
        if records[number].model == '' then beside = 'beside_rehearsal' end
    end
    for number, call in pairs(calls) do
        book_lost(number, call, records[number], records[number].model ~= '' and beside or nil, news)
    end
end

-- Its name; nil when it lives, or was buried before.
local function bury(dead, news)
    local dead_name = lapsed(dead)
    if not dead_name then return { 'alive' } end
    local left, calls = redis.call('HGETALL', L .. ':open:' .. dead), {}
    for i = 1, #left, 2 do
        local kind, what = string.sub(left[i], 1, 1), string.sub(left[i], 2)
        if kind == 'a' then
            calls[what] = left[i + 1]
        elseif get(flights, what) == dead then
            put(flights, what, false)
        end
    end
    book_all_lost(calls, news)
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
    for number, call in pairs(lost) do
        redis.call('SET', L .. ':lost:' .. number, call, 'PX', settings.late_ms)
    end
end

-- The last word of an owner that was buried: what it knows of its calls by now replaces what was charged for them.
-- Nothing else of what it asks is done.
local function correct_lost(landing, seen)
    local settled = landing[2]
    local attempt = settled and settled[1]
    local call = attempt and not seen[attempt] and redis.call('GET', L .. ':lost:' .. attempt)
    if not call then return end
    seen[attempt] = true
    local record, cost = cmsgpack.unpack(record_in(call)), settled[4]
    charge(record.scopes, cost - (record.bound or 0), 0)
    add_latency(settled)
    local started = read_call(call)
    note_trouble(attempt, 'unknown', cost, record, started, 0, nil, 'late_answer')
    if redis.call('EXISTS', L .. ':prior:' .. record.entry) == 0 then new_priors[record.entry] = nil end -- it has ended
end
