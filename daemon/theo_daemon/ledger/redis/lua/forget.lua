-- Forget what is remembered for these ids. ARGV: their digests. Who waits for one of them has a reason to ask again.
-- Returns the number of those that were known.
local known = 0
for _, digest in ipairs(ARGV) do
    known = known + redis.call('DEL', L .. ':id:' .. digest)
end
if known > 0 then redis.call('HINCRBY', L, 'released', 1) end
return known
