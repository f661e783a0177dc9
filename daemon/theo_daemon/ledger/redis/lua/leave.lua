-- A clean end. ARGV: 1 owner   2 its name. What it left open is taken for lost at once: others need not wait for its
-- lease. Returns how much that is.
local owner, name = ARGV[1], ARGV[2]
if redis.call('HGET', OWNERS, owner) ~= name then return 0 end
local left = redis.call('HLEN', L .. ':open:' .. owner)
if left > 0 then
    redis.call('ZADD', LEASES, 0, owner)
    return left
end
redis.call('HDEL', OWNERS, owner)
redis.call('ZREM', LEASES, owner)
redis.call('DEL', L .. ':owner:' .. owner)
return 0
