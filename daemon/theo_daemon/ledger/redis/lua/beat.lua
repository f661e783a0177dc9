-- A sign of life, also while memory is short. ARGV: 1 owner   2 its name   3 lease in ms   4 most that is asked for
-- between two beats of anybody   5 grace in ms. Returns {1, the last batch that is known of it, dead...}, or {0} to an
-- owner that was buried.
--
-- Where nobody could beat, nobody is dead: after a time without any beat (the server was away, or all processes were)
-- the others get a grace to come back before any of them is buried. Where the clock was set back, as after a failover
-- to a host whose clock is slow, as much is left of every lease as was: the dead are not kept alive by it.
local owner, name, lease, quiet, grace = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
if redis.call('HGET', OWNERS, owner) ~= name then return { 0 } end
local now = time_now('')
local last = tonumber(redis.call('HGET', L, 'beat') or now)
local until_ms = tonumber(redis.call('HGET', L, 'grace') or 0)
redis.call('HSET', L, 'beat', whole(now))

if now < last then
    local leases = redis.call('ZRANGE', LEASES, 0, -1, 'WITHSCORES')
    for i = 1, #leases, 2 do
        local ends = tonumber(leases[i + 1])
        if ends > 0 then redis.call('ZADD', LEASES, whole(ends - last + now), leases[i]) end -- 0: it left, and said so
    end
    until_ms = until_ms - last + now
    redis.call('HSET', L, 'grace', whole(math.max(0, until_ms)))
elseif now - last > quiet then
    until_ms = now + grace
    redis.call('HSET', L, 'grace', whole(until_ms))
end
redis.call('ZADD', LEASES, whole(now + lease), owner)
local dead = redis.call('ZRANGEBYSCORE', LEASES, '-inf', until_ms > now and 0 or whole(now), 'LIMIT', 0, 16)
return { 1, redis.call('HGET', L .. ':owner:' .. owner, 'batch') or '0', unpack(dead) }
