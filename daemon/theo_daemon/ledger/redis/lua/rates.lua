-- Calls and tokens per minute of one model, as in rates.py: exactly those of the last sixty seconds count. A window
-- is its slices, {second, requests, tokens}, oldest first; one counts until all of it is a minute old.
local SECOND, REQUESTS, TOKENS = 1, 2, 3
local MOST_CALLS = 1000000
local windows = shelf({ hash = RATES, parse = unpacked_or_empty })
local current_windows = {} -- those that were cleared of what counts no more, and their sums

local function ends_ms(slice)
    return (slice[SECOND] + 1) * 1000 + 60000
end

-- Without what is a minute old, and what a clock set back would keep for long. `now` is one for the whole batch.
local function current(model, now)
    local found = current_windows[model]
    if found then return found end
    found = { slices = {}, requests = 0, tokens = 0 }
    local latest = math.floor(now / 1000) + 1
    for _, slice in ipairs(get(windows, model)) do
        if ends_ms(slice) > now and slice[SECOND] <= latest then
            found.slices[#found.slices + 1] = slice
            found.requests, found.tokens = found.requests + slice[REQUESTS], found.tokens + slice[TOKENS]
        end
    end
    current_windows[model] = found
    return found
end

local function calls_left(rate, requests, tokens)
    local calls = MOST_CALLS
    if rate.rpm then calls = math.min(calls, rate.rpm - requests) end
    if rate.tpm then calls = math.min(calls, math.floor((rate.tpm - tokens) / rate.tokens)) end
    return calls
end

-- {from when, for how many calls} there is room.
local function room(window, rate, now)
    local requests, tokens, from = window.requests, window.tokens, now
    local calls = calls_left(rate, requests, tokens)
    for _, slice in ipairs(window.slices) do
        if calls > 0 then break end
        requests, tokens, from = requests - slice[REQUESTS], tokens - slice[TOKENS], ends_ms(slice)
        calls = calls_left(rate, requests, tokens)
    end
    return { from, math.max(1, calls) }
end

local function slice_of(window, second)
    local slices = window.slices
    for at = #slices, 1, -1 do
        if slices[at][SECOND] == second then return slices[at] end
        if slices[at][SECOND] < second then
            table.insert(slices, at + 1, { second, 0, 0 })
            return slices[at + 1]
        end
    end
    table.insert(slices, 1, { second, 0, 0 })
    return slices[1]
end

local function add_to_slice(model, window, slice, requests, tokens)
    requests = math.max(-slice[REQUESTS], requests)
    tokens = math.max(-slice[TOKENS], tokens)
    slice[REQUESTS], slice[TOKENS] = slice[REQUESTS] + requests, slice[TOKENS] + tokens
    window.requests, window.tokens = window.requests + requests, window.tokens + tokens
    put(windows, model, window.slices)
end

-- Take one call; true and what is left, or false and when there is room again.
local function take(model, rate, now)
    local window = current(model, now)
    local pace = room(window, rate, now)
    if pace[1] > now then return false, pace end
    add_to_slice(model, window, slice_of(window, math.floor(now / 1000)), 1, rate.tokens)
    return true, room(window, rate, now)
end

-- A call of that second turned out to take this much more (or, negative, less).
local function correct(model, second, requests, tokens, now)
    local window = current(model, now)
    for _, slice in ipairs(window.slices) do
        if slice[SECOND] == second then
            add_to_slice(model, window, slice, requests, tokens)
            return
        end
    end
end

local function flush_rates()
    flush_hash(windows, cmsgpack.pack)
end
