-- What a batch brings. ARGV: 1 owner   2 its name   3 token of the batch   4 that of its last one that changed
-- anything, 0 before the first   5 '' (in tests, the time)   6 settings   7 the operations   then long texts, which
-- operations name by their place.
local owner, name, token, last_token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local settings = cmsgpack.unpack(ARGV[6]) -- id_ms, outcome_ms, keep_ms, stale_ms, late_ms, doubtful, failures
local OWNER, OPEN = L .. ':owner:' .. owner, L .. ':open:' .. owner
