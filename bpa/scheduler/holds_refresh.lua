-- Prolong the holds of runs that have a lease; never bring back one that was given back.
-- KEYS[1]  the hold generation; the holds of a generation live under <KEYS[1]>:<generation>:
-- ARGV[1]  the generation that the caller believes in
-- ARGV[2]  how long a hold lasts, ms
-- ARGV[3]  JSON [[run, node, deployment]]
-- Returns the generation there is ("" for none); nothing is prolonged under another one.
local present = redis.call('GET', KEYS[1]) or ''
if present ~= ARGV[1] then return present end

local ttl_ms = tonumber(ARGV[2])
local time = redis.call('TIME')
local expiry_ms = time[1] * 1000 + math.floor(time[2] / 1000) + ttl_ms
local prefix = KEYS[1] .. ':' .. present
local touched = {}
for _, hold in ipairs(cjson.decode(ARGV[3])) do
  local node_key = prefix .. ':node:' .. hold[2]
  local deployment_key = prefix .. ':deployment:' .. hold[3]
  redis.call('ZADD', node_key, 'XX', expiry_ms, hold[1] .. ' ' .. hold[3])
  redis.call('ZADD', deployment_key, 'XX', expiry_ms, hold[1] .. ' ' .. hold[2])
  touched[node_key], touched[deployment_key] = true, true
end
for key, _ in pairs(touched) do redis.call('PEXPIRE', key, ttl_ms) end
return present
