-- What is remembered: whose an id is, how jobs ended, what was answered, what was tried before.

-- An id is a text, "r<taken at> <digest> <entry>" while its job runs, "d<taken at> <digest> <entry>\n<outcome>" once it
-- ended. An entry is "<stream>:<entry id>".
local function id_text(taken, digest, entry, outcome)
    local head = taken .. ' ' .. digest .. ' ' .. entry
    return outcome and 'd' .. head .. '\n' .. outcome or 'r' .. head
end

-- Whose it is, the digest, when it was taken (as text), and where its outcome begins, if it has one.
local function read_id(text)
    local _, last, state, taken, digest, entry = string.find(text, '^(.)(%d+) (%S*) (%S+)')
    return entry, digest, taken, state == 'd' and last + 2
end

-- "<created> <fresh until> <model>\n<answer>", times in Unix ms; the answer begins at `first`.
local function read_answer(text)
    if not text then return false end
    local _, last, created, fresh_until, model = string.find(text, '^(%d+) (%d+) (%S+)\n')
    return {
        created = tonumber(created), fresh_until = tonumber(fresh_until), model = model, text = text, first = last + 1,
    }
end

-- What of a text follows from `first`, as a verdict tells it: of what is large its place, for `texts.lua` to read, which
-- is {kind, name, bytes}.
local function told_text(kind, name, text, first)
    local size = #text - first + 1
    if size > settings.large then return { kind, name, size } end
    return first == 1 and text or string.sub(text, first)
end

local ids = shelf({ prefix = L .. ':id:' })
local new_ids = {} -- those that this batch takes
local outcomes = shelf({ prefix = L .. ':outcome:' })
local redelivered = {} -- entries that somebody had before
local answers = shelf({ prefix = L .. ':answer:', parse = read_answer })

-- -- attempts at a job that has not ended: all but those that were answered --

local new_priors = {} -- entry -> attempt -> {attempt, model, provider, state, cost, latency, status, error}
local ended = {} -- entries whose jobs have an outcome by now: nothing needs to be listed of them any more
local answered = {} -- entry -> the call that answered it: {attempt, model, when it was sent}

local function add_prior(entry, prior)
    new_priors[entry] = new_priors[entry] or {}
    new_priors[entry][prior[1]] = prior
end

local function priors_of(entry)
    local list, new = {}, new_priors[entry] or {}
    if ended[entry] then return list end
    local known = redis.call('HGETALL', L .. ':prior:' .. entry)
    for i = 1, #known, 2 do
        if not new[known[i]] then list[#list + 1] = cmsgpack.unpack(known[i + 1]) end
    end
    for _, prior in pairs(new) do
        list[#list + 1] = prior
    end
    return list
end

-- Of most jobs there is nothing to delete: they were answered at once.
local function drop_priors()
    local keys, known = {}, 0
    for entry in pairs(answered) do
        keys[#keys + 1] = L .. ':prior:' .. entry
    end
    for entry in pairs(ended) do
        if not answered[entry] then keys[#keys + 1] = L .. ':prior:' .. entry end
    end
    in_chunks(keys, function(first, last)
        known = known + redis.call('EXISTS', unpack(keys, first, last))
    end)
    if known == 0 then return end
    for entry, call in pairs(answered) do
        if redis.call('EXISTS', L .. ':prior:' .. entry) == 1 then
            redis.call(
                'XADD', DOUBTFUL, 'MAXLEN', '~', settings.doubtful, '*', 'attempt', call[1], 'model', call[2],
                'state', 'ok', 'entry', entry, 'started_at', whole(call[3])
            )
        end
    end
    for entry in pairs(ended) do
        redis.call('DEL', L .. ':prior:' .. entry)
    end
end

local function flush_priors()
    drop_priors()
    for entry, new in pairs(new_priors) do
        if not ended[entry] then
            local key = L .. ':prior:' .. entry
            for attempt, prior in pairs(new) do
                redis.call('HSET', key, attempt, cmsgpack.pack(prior))
            end
            redis.call('PEXPIRE', key, settings.keep_ms)
        end
    end
end

-- -- answers to share --

local moved_answers = {} -- {the keys by age of the model that an answer was of, its key}
local new_answers = {} -- by model: {keys in the order of writing, limit, life}

-- A long text of the batch, by its place; or by {place, first byte, last byte} of one that it is a part of.
local function text_at(where)
    if type(where) ~= 'table' then return ARGV[where] end
    return string.sub(ARGV[where[1]], where[2], where[3])
end

local function keep_answer(write, model)
    local key, ttl, most, text = unpack(write, 1, 4)
    local before, life = get(answers, key), ttl + settings.stale_ms
    put(answers, key, {
        created = now, fresh_until = now + ttl, model = model, text = text_at(text), first = 1, life = life,
    })
    local list = new_answers[model] or { life = 0 }
    new_answers[model] = list
    list.limit, list.life = most, math.max(list.life, life)
    list[#list + 1] = key
    if before and before.model ~= model then -- until now it counted for that one
        moved_answers[#moved_answers + 1] = { L .. ':answers:' .. before.model, key }
    end
end

-- The oldest answers of the model make room. As many as came, and a few more where the limit was lowered: no batch
-- deletes a whole cache. (An answer that expired here and came again from another model may go with them.)
local function evict(model, list)
    local by_age = L .. ':answers:' .. model
    local excess = math.min(redis.call('ZCARD', by_age) - list.limit, 2 * #list + 16)
    if excess <= 0 then return end
    local oldest, gone = redis.call('ZPOPMIN', by_age, excess), {}
    for i = 1, #oldest, 2 do
        gone[#gone + 1] = L .. ':answer:' .. oldest[i]
    end
    delete_all(gone)
end

local function flush_answers()
    for _, key in ipairs(answers.changed) do
        local one = get(answers, key)
        local head = NOW .. ' ' .. whole(one.fresh_until) .. ' ' .. one.model .. '\n'
        redis.call('SET', L .. ':answer:' .. key, head .. one.text, 'PX', one.life)
    end
    for _, move in ipairs(moved_answers) do
        redis.call('ZREM', move[1], move[2])
    end
    for model, list in pairs(new_answers) do
        local by_age, words = L .. ':answers:' .. model, {}
        local number = redis.call('HINCRBY', L, 'answers', #list) - #list
        for i, key in ipairs(list) do
            words[2 * i - 1], words[2 * i] = number + i, key
        end
        with_all('ZADD', by_age, words)
        redis.call('PEXPIRE', by_age, list.life)
        evict(model, list)
    end
end

-- The id's text; false once it is forgotten. What an entry itself left there stays its own, as long as outcomes are kept.
local function known_id(name)
    local id = get(ids, name)
    if not id then return false end
    local entry, _, taken = read_id(id)
    if tonumber(taken) < now - settings.id_ms and not redelivered[entry] then return false end
    return id
end

local function take_id(name, digest, entry, outcome)
    new_ids[name] = true
    put(ids, name, id_text(NOW, digest, entry, outcome))
end

local function flush_ids()
    for _, name in ipairs(ids.changed) do
        local id, key = get(ids, name), L .. ':id:' .. name
        if not id then
            redis.call('DEL', key)
        elseif new_ids[name] then
            redis.call('SET', key, id, 'PX', math.max(settings.id_ms, settings.outcome_ms))
        else
            redis.call('SET', key, id, 'KEEPTTL')
        end
    end
end

local function flush_outcomes()
    local gone = {}
    for _, entry in ipairs(outcomes.changed) do
        local outcome = get(outcomes, entry)
        if outcome then
            redis.call('SET', L .. ':outcome:' .. entry, outcome, 'PX', settings.outcome_ms)
        else
            gone[#gone + 1] = L .. ':outcome:' .. entry
        end
    end
    delete_all(gone)
end
