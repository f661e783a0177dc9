-- A process begins to keep books here. ARGV: 1 name   2 lease in ms   3 a uuid, for books that are new   4 schema
-- Returns {owner id, uuid, schema, now}; the id is 0 where the books are of a newer schema.
if redis.call('HEXISTS', L, 'uuid') == 0 then redis.call('HSET', L, 'uuid', ARGV[3], 'schema', ARGV[4]) end
local uuid, schema = unpack(redis.call('HMGET', L, 'uuid', 'schema'))
local now = time_now('')
if tonumber(schema) > tonumber(ARGV[4]) then return { 0, uuid, schema, whole(now) } end
local owner = redis.call('HINCRBY', L, 'owner', 1)
redis.call('HSET', OWNERS, owner, ARGV[1])
redis.call('ZADD', LEASES, whole(now + tonumber(ARGV[2])), owner)
return { owner, uuid, schema, whole(now) }
