-- What a batch brings. ARGV: 1 owner   2 its name   3 token of the batch   4 that of its last one that changed
-- anything, 0 before the first   5 '' (in tests, the time)   6 settings   7 {the lists of scopes that its operations
-- draw on, the operations}   then long texts, which operations name by their place.
--
-- An operation is a list, false where there is nothing (names on the way would cost as much again):
--   {'ask', entry, key, redelivered, holding, cache key, id, digest, waiting since, want}
--       want: {attempt, model, bound, scopes, record, probe until, rpm, tpm, tokens}
--   {'restore', ...} as an ask     {'check', entry, false, redelivered, false, false, id, digest}
--   {'land', settled, cache, key to release, ends, cache for those who wait}
--       settled: {attempt, model, state, cost, bound, scopes, latency, prompt tokens, completion tokens, status, error
--                 code, the provider's request id}
--       cache: {key, ms to live, most of its model, answer}     an end: {entry, outcome, id, digest, remember, vanished}
--   {'forget', entries}   {'bury', owner}   {'change', its fields}   {'health', its fields}
--   {'failure', model, generation, threshold, until}
local owner, name, token, last_token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local settings = cmsgpack.unpack(ARGV[6]) -- id_ms, outcome_ms, keep_ms, stale_ms, late_ms, doubtful, failures, large
local OWNER, OPEN = L .. ':owner:' .. owner, L .. ':open:' .. owner
local scopes_of, operations = unpack(cmsgpack.unpack(ARGV[7]))
local now = time_now(ARGV[5])
local NOW = whole(now)
