-- Reserve room for messages that are about to be received; replicas together never exceed it.
-- KEYS[1]  the deployment's reservations, a hash: owner -> "<count> <expiry in ms>"
-- KEYS[2]  when runs were recorded of late, a sorted set by Postgres's clock, microseconds
-- ARGV[1]  owner, a replica; what it had before is replaced
-- ARGV[2]  how many it wants
-- ARGV[3]  the room as the owner sees it
-- ARGV[4]  runs recorded at this time or later are not counted in that room, microseconds
-- ARGV[5]  how long a reservation lasts, ms
-- Returns how many it got.
local time = redis.call('TIME')
local now_ms, ttl_ms = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[5])
local entries = redis.call('HGETALL', KEYS[1])
local taken = redis.call('ZCOUNT', KEYS[2], ARGV[4], '+inf')
for i = 1, #entries, 2 do
  local count, expiry_ms = string.match(entries[i + 1], '^(%d+) (%d+)$')
  if tonumber(expiry_ms) <= now_ms then
    redis.call('HDEL', KEYS[1], entries[i])
  elseif entries[i] ~= ARGV[1] then
    taken = taken + tonumber(count)
  end
end

local got = math.max(math.min(tonumber(ARGV[2]), tonumber(ARGV[3]) - taken), 0)
if got > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%d %.0f', got, now_ms + ttl_ms))
  redis.call('PEXPIRE', KEYS[1], ttl_ms)
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return got
