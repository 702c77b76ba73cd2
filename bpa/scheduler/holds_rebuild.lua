-- Write the holds of all leases and the generation they belong to, as one.
-- KEYS[1]  the hold generation; the holds of a generation live under <KEYS[1]>:<generation>:
-- ARGV[1]  the new generation, a whole number
-- ARGV[2]  how long a hold lasts, ms
-- ARGV[3]  JSON [[run, node, deployment]], read after the generation was raised in Postgres
-- Returns 1, or 0 if this generation or a later one is there already.
local present = tonumber(redis.call('GET', KEYS[1]) or '')
if present and present >= tonumber(ARGV[1]) then return 0 end

local ttl_ms = tonumber(ARGV[2])
local time = redis.call('TIME')
local expiry_ms = time[1] * 1000 + math.floor(time[2] / 1000) + ttl_ms
local prefix = KEYS[1] .. ':' .. ARGV[1]
local touched = {}
for _, hold in ipairs(cjson.decode(ARGV[3])) do
  local node_key = prefix .. ':node:' .. hold[2]
  local deployment_key = prefix .. ':deployment:' .. hold[3]
  redis.call('ZADD', node_key, expiry_ms, hold[1] .. ' ' .. hold[3])
  redis.call('ZADD', deployment_key, expiry_ms, hold[1] .. ' ' .. hold[2])
  touched[node_key], touched[deployment_key] = true, true
end
for key, _ in pairs(touched) do redis.call('PEXPIRE', key, ttl_ms) end
redis.call('SET', KEYS[1], ARGV[1])
return 1
