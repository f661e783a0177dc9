-- Where everything is. One key is named to the server, KEYS[1]; all others are that name and more, so that on a
-- cluster they lie in its slot.
--
--   (itself)           hash   what is said of the whole ledger: uuid, schema, counters, the last beat
--   :owners            hash   owner id -> process name, of the living; who is not in it may write nothing
--   :leases            zset   owner id by the Unix ms until which it cannot be taken for dead
--   :owner:<id>        hash   the last batch of this owner, and what it was told
--   :open:<id>         hash   its calls under way ("a" .. attempt) and the flight keys it holds ("k" .. key)
--   :flights           hash   flight key -> owner id
--   :id:<digest>       string a client id: whose it is, and its outcome once there is one
--   :outcome:<entry>   string an outcome to be published again after a crash
--   :prior:<entry>     hash   attempts of a job that has not ended, other than answered ones
--   :answer:<key>      string an answer to share; and :answers:<model>, zset, the keys by age
--   :spend             hash   "<window start> <scope>" -> balance; :windows, zset, the same by when they end
--   :running           hash   scope -> its last window
--   :latency :standings :health :rates   hash   by model; :models, hash, the models that ever cost anything
--   :lost:<attempt>    string what was charged for a call whose process was taken for dead
--   :doubtful :failures  stream   attempts that may have been billed for nothing, and that failed; with the former
--                             those that answered the same jobs afterwards
local L = KEYS[1]
local OWNERS, LEASES, FLIGHTS = L .. ':owners', L .. ':leases', L .. ':flights'
local SPEND, WINDOWS, RUNNING, MODELS = L .. ':spend', L .. ':windows', L .. ':running', L .. ':models'
local LATENCY, STANDINGS, HEALTH, RATES = L .. ':latency', L .. ':standings', L .. ':health', L .. ':rates'
local DOUBTFUL, FAILURES = L .. ':doubtful', L .. ':failures'

-- Whole numbers as text, all digits: tostring() would round what is longer than 14.
local function whole(number)
    return string.format('%.0f', number)
end

-- Unix ms by this server. `given` is '' but in tests, which bring a time of their own.
local function time_now(given)
    if given ~= '' then return tonumber(given) end
    local now = redis.call('TIME')
    return tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
end

-- While a cluster moves the slot to another node, some keys are there already and would look absent. A key that
-- never exists is refused then, by an error: before anything is written.
local function refuse_while_moving()
    redis.call('EXISTS', L .. ':moving')
end
