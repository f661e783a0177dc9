-- What all processes hold true of a model, as in shared.py: circuit, pause, credential, the right to probe. Evidence
-- from before the circuit's last change counts for nothing; of operators' commands the latest counts.
local CLOCK_SLACK_MS = 2000

local function read_standing(text)
    local row = text and cmsgpack.unpack(text) or {
        version = 0, generation = 0, openings = 0, open_until = 0, probe = '0', probe_until = 0, paused_until = 0,
        credential = '', order = '0-0', dated = 0,
    }
    row.failures, row.successes = row.failures or 0, row.successes or 0
    return row
end

local standings = shelf({ hash = STANDINGS, parse = read_standing })
local standings_moved = false -- is there anything that other processes must hear of?

-- Was the clock set back since the row's times were set? Then nobody can tell what is left of them: they count as over.
local function set_back(row, now)
    return now < row.dated - CLOCK_SLACK_MS
end

local shut = {} -- models that take no calls since this batch, but for probes: also none of those that it claims

local function note_shut(model, row, now)
    if row.openings > 0 or row.paused_until > now or row.disabled then shut[model] = true end
end

local function next_standing(model, row)
    row.version, standings_moved = row.version + 1, true
    put(standings, model, row)
    return row
end

-- Closed, unless told otherwise; who probed before has no say any more.
local function next_circuit(model, row, openings, open_until)
    row.generation = row.generation + 1
    row.openings, row.open_until, row.probe, row.probe_until, row.failures = openings, open_until, '0', 0, 0
    return next_standing(model, row)
end

-- Entry ids as they follow one another.
local function not_after(one, other)
    local ms, number = string.match(one, '^(%d+)-?(%d*)$')
    local other_ms, other_number = string.match(other, '^(%d+)-?(%d*)$')
    ms, other_ms = tonumber(ms), tonumber(other_ms)
    if ms ~= other_ms then return ms < other_ms end
    return (tonumber(number) or 0) <= (tonumber(other_number) or 0)
end

local function after_order(model, row, change, now)
    if not_after(change.order, row.order) then return row, false end
    row.order = change.order
    if change.disable then
        local news = row.disabled == nil
        row.disabled, row.credential = 'operator', ''
        return next_standing(model, row), news
    end
    local news = row.disabled ~= nil or row.openings > 0 or row.paused_until > now
    row.paused_until, row.disabled, row.credential = 0, nil, ''
    return next_circuit(model, row, 0, 0), news
end

-- The row that follows, and whether the change is news: to be told once, by who made it.
local function after_change(change, now)
    local model, kind = change.model, change.kind
    local row = get(standings, model)
    if kind == 'opened' then
        if change.generation ~= row.generation then return row, false end
        row.dated = now
        return next_circuit(model, row, change.openings, change.until_ms), true
    elseif kind == 'closed' then
        if change.generation ~= row.generation or row.openings == 0 then return row, false end
        return next_circuit(model, row, 0, 0), true
    elseif kind == 'paused' then
        local paused_until = set_back(row, now) and 0 or row.paused_until
        if change.until_ms <= paused_until then return row, false end
        local news = paused_until <= now
        row.paused_until, row.dated = change.until_ms, now
        return next_standing(model, row), news
    elseif kind == 'disabled' then
        if row.disabled and (row.credential == '' or row.credential == change.credential) then return row, false end
        row.disabled, row.credential = change.cause, change.credential
        return next_standing(model, row), true
    end
    return after_order(model, row, change, now)
end

-- A failure that did not open the circuit of the process that met it, the calls answered in all being `successes`: where
-- that has grown since the last one, the failures were not in a row. One that opens nothing is no change to others.
local function count_failure(failure, successes, now)
    local _, model, generation, threshold, until_ms = unpack(failure, 1, 5)
    local row = get(standings, model)
    if generation ~= row.generation or row.openings > 0 then return row, false end
    local failures = successes == row.successes and row.failures + 1 or 1
    if failures >= threshold then
        row.dated = now
        return next_circuit(model, row, 1, until_ms), true
    end
    row.failures, row.successes = failures, successes
    put(standings, model, row)
    return row, false
end

-- May this attempt go out, as the probe of its model if the circuit is half-open? false and the row: it may not.
local function may_probe(model, now)
    local row = get(standings, model)
    if row.openings > 0 and set_back(row, now) then return true, row end
    if row.open_until > now or row.paused_until > now then return false, row end
    if row.openings > 0 and row.probe ~= '0' and row.probe_until > now then return false, row end
    return true, row
end

local function give_probe(model, row, attempt, probe_until, now)
    if row.openings == 0 then return false end
    if set_back(row, now) then row.open_until, row.paused_until = now, 0 end
    row.probe, row.probe_until, row.dated, row.generation = attempt, probe_until, now, row.generation + 1
    next_standing(model, row)
    return true
end

-- The attempt is over: if it still has the right to probe, it loses it, and the next one may go.
local function end_probe(model, attempt)
    local row = get(standings, model)
    if row.probe == attempt then
        row.probe, row.probe_until = '0', 0
        next_standing(model, row)
    end
end

-- Rows change in place while a batch is decided, so what is told of one is as it was at that moment.
local function as_told(model, row)
    local copy = { model = model }
    for name, value in pairs(row) do
        copy[name] = value
    end
    return copy
end

-- -- health --

local health = shelf({ hash = HEALTH, parse = unpacked_or_empty })

local function later(one, other)
    if one and other then return math.max(one, other) end
    return one or other
end

-- Counts add up; of the rest the word of the process that reports is the latest.
local function add_health(report)
    local kept, before, now = get(health, report.model), report.before, report.now
    local merged = {}
    for name, value in pairs(now) do
        merged[name] = value
    end
    for _, name in ipairs({ 'total_successes', 'total_failures' }) do
        merged[name] = (kept[name] or 0) + now[name] - before[name]
    end
    for _, name in ipairs({ 'last_success_time', 'last_failure_time' }) do
        merged[name] = later(kept[name], now[name])
    end
    put(health, report.model, merged)
end

local function flush_standings()
    flush_hash(standings, cmsgpack.pack)
    flush_hash(health, cmsgpack.pack)
    if standings_moved then redis.call('HINCRBY', L, 'changed', 1) end
end
