-- What a batch brings. ARGV: 1 owner   2 its name   3 token of the batch   4 '' (in tests, the time)   5 settings
-- 6 the operations   then long texts, which operations name by their place.
local owner, name, token = ARGV[1], ARGV[2], ARGV[3]
local settings = cmsgpack.unpack(ARGV[5]) -- id_ms, outcome_ms, keep_ms, stale_ms, late_ms, longest
local OWNER, OPEN = L .. ':owner:' .. owner, L .. ':open:' .. owner
