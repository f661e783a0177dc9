-- A sign of life, also while memory is short. ARGV: 1 owner   2 its name   3 lease in ms   4 most that is asked for
-- between two beats of anybody   5 grace in ms. Returns {1, the last batch that is known of it, dead...}, or {0} to an
-- owner that was buried.
--
-- Where nobody could beat, nobody is dead: after a time without any beat (the server was away, or all processes were)
-- the others get a grace to come back before any of them is buried.
local owner, name, lease, quiet, grace = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
if redis.call('HGET', OWNERS, owner) ~= name then return { 0 } end
local now = time_now('')
local last = tonumber(redis.call('HGET', L, 'beat') or now)
redis.call('HSET', L, 'beat', whole(now))
redis.call('ZADD', LEASES, whole(now + lease), owner)
local until_ms = tonumber(redis.call('HGET', L, 'grace') or 0)
if now - last > quiet then
    until_ms = now + grace
    redis.call('HSET', L, 'grace', whole(until_ms))
end
local dead = redis.call('ZRANGEBYSCORE', LEASES, '-inf', until_ms > now and 0 or whole(now), 'LIMIT', 0, 16)
return { 1, redis.call('HGET', L .. ':owner:' .. owner, 'batch') or '0', unpack(dead) }
