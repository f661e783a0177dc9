-- What is remembered: whose an id is, how jobs ended, what was answered, what was tried before.

-- "r<digest> <entry>" while the job of the id runs, "d<digest> <entry>\n<outcome>" once it ended. An entry is
-- "<stream>:<entry id>".
local function read_id(text)
    if not text then return false end
    local state, digest, entry, outcome = string.match(text, '^(.)(%S*) (%S+)\n?(.*)$')
    return { digest = digest, entry = entry, outcome = state == 'd' and outcome }
end

local function id_text(id)
    if not id.outcome then return 'r' .. id.digest .. ' ' .. id.entry end
    return 'd' .. id.digest .. ' ' .. id.entry .. '\n' .. id.outcome
end

-- "<created> <fresh until> <model>\n<answer>", times in Unix ms.
local function read_answer(text)
    if not text then return false end
    local _, last, created, fresh_until, model = string.find(text, '^(%d+) (%d+) (%S+)\n')
    return {
        created = tonumber(created), fresh_until = tonumber(fresh_until), model = model,
        text = string.sub(text, last + 1),
    }
end

local ids = shelf({ prefix = L .. ':id:', parse = read_id })
local outcomes = shelf({ prefix = L .. ':outcome:' })
local answers = shelf({ prefix = L .. ':answer:', parse = read_answer })

-- -- attempts at a job that has not ended: all but those that were answered --

local new_priors = {} -- entry -> attempt -> {attempt, model, provider, state, cost, latency, status, error}
local ended = {} -- entries whose jobs have an outcome by now: nothing needs to be listed of them any more

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

local function flush_priors()
    local gone = {}
    for entry in pairs(ended) do
        gone[#gone + 1] = L .. ':prior:' .. entry
    end
    delete_all(gone)
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

local function keep_answer(write, now)
    local before = get(answers, write.key)
    local model = write.model
    put(answers, write.key, {
        created = now, fresh_until = now + write.ttl, model = model, text = ARGV[write.text],
        life = write.ttl + settings.stale_ms,
    })
    local list = new_answers[model] or { life = 0 }
    new_answers[model] = list
    list.limit, list.life = write.max, math.max(list.life, write.ttl + settings.stale_ms)
    list[#list + 1] = write.key
    if before and before.model ~= model then -- until now it counted for that one
        moved_answers[#moved_answers + 1] = { L .. ':answers:' .. before.model, write.key }
    end
end

local function model_of_answer(key)
    local _, _, model = string.find(redis.call('GETRANGE', L .. ':answer:' .. key, 0, 160), '^%d+ %d+ (%S+)\n')
    return model
end

-- The oldest answers of the model make room. As many as came, and a few more where the limit was lowered: no batch
-- deletes a whole cache.
local function evict(model, list)
    local by_age = L .. ':answers:' .. model
    local excess = math.min(redis.call('ZCARD', by_age) - list.limit, 2 * #list + 16)
    if excess <= 0 then return end
    local oldest, gone = redis.call('ZPOPMIN', by_age, excess), {}
    for i = 1, #oldest, 2 do
        if model_of_answer(oldest[i]) == model then gone[#gone + 1] = L .. ':answer:' .. oldest[i] end
    end
    delete_all(gone)
end

local function flush_answers()
    for _, key in ipairs(answers.changed) do
        local one = get(answers, key)
        local head = whole(one.created) .. ' ' .. whole(one.fresh_until) .. ' ' .. one.model .. '\n'
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

local function flush_ids()
    for _, name in ipairs(ids.changed) do
        local id, key = get(ids, name), L .. ':id:' .. name
        if not id then
            redis.call('DEL', key)
        elseif id.new then
            redis.call('SET', key, id_text(id), 'PX', settings.id_ms)
        else
            redis.call('SET', key, id_text(id), 'KEEPTTL')
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
