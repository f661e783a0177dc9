-- An owner whose lease ran out: nobody knows whether its calls were billed, so they are, at their bound; its keys are
-- free. From the same moment it may write nothing: it finds itself missing among the owners.
local buried = {}
local lost = {} -- attempt -> its record, for the case that its process only seemed dead

local function lapsed(dead, now)
    if dead == owner then return nil end
    local dead_name = redis.call('HGET', OWNERS, dead)
    if not dead_name then return nil end
    local grace = tonumber(redis.call('HGET', L, 'grace') or 0)
    local lease = tonumber(redis.call('ZSCORE', LEASES, dead) or 0)
    if lease > now or (grace > now and lease > 0) then return nil end -- 0: it left, and said so
    return dead_name
end

local function book_lost(number, attempt, news)
    local record = cmsgpack.unpack(attempt.text)
    local bound = record.bound or 0
    charge(record.scopes, bound, -bound)
    if attempt.guard and attempt.guard.probe then end_probe(record.model, number) end
    note_trouble(number, 'unknown', bound, record, attempt.started, {})
    lost[number] = attempt.text
    news[#news + 1] = { 'lost', record.entry, number, record.model, record.provider, bound }
end

-- Its name; nil when it lives, or was buried before.
local function bury(dead, now, news)
    local dead_name = lapsed(dead, now)
    if not dead_name then return { 'alive' } end
    local left = redis.call('HGETALL', L .. ':open:' .. dead)
    for i = 1, #left, 2 do
        local kind, what = string.sub(left[i], 1, 1), string.sub(left[i], 2)
        if kind == 'a' then
            book_lost(what, read_open(left[i + 1]), news)
        elseif get(flights, what) == dead then
            put(flights, what, false)
        end
    end
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
    local record = cmsgpack.unpack(text)
    charge(record.scopes, one.cost - (record.bound or 0), 0)
    add_latency(one)
    if redis.call('EXISTS', L .. ':prior:' .. record.entry) == 1 then
        add_prior(record.entry, {
            one.attempt, record.model, record.provider, 'unknown', one.cost, 0, false, 'late_answer',
        })
    end
end
