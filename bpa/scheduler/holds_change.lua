-- Give holds back and take new ones, a whole batch at once; a run gets both its holds or neither.
-- KEYS[1]  the hold generation; the holds of a generation live under <KEYS[1]>:<generation>:
-- ARGV[1]  the generation that the caller believes in
-- ARGV[2]  how long a hold lasts, ms
-- ARGV[3]  JSON {"release": [[run, node, deployment]], "take": [[run, node, deployment]],
--          "slots": {node: slots}, "limits": {deployment: runs at once}}
-- Returns the generation there is ("" for none); if it is the caller's, then for each of "take"
-- one of taken, node (it is full), deployment (it is full), held (the run holds this place).
local present = redis.call('GET', KEYS[1]) or ''
if present ~= ARGV[1] then return {present} end

local ttl_ms = tonumber(ARGV[2])
local batch = cjson.decode(ARGV[3])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local prefix = KEYS[1] .. ':' .. present

for _, hold in ipairs(batch.release) do
  redis.call('ZREM', prefix .. ':node:' .. hold[2], hold[1] .. ' ' .. hold[3])
  redis.call('ZREM', prefix .. ':deployment:' .. hold[3], hold[1] .. ' ' .. hold[2])
end

local used = {}
local function count(key)
  if not used[key] then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now_ms)
    used[key] = redis.call('ZCARD', key)
  end
  return used[key]
end

local answer = {present}
for _, hold in ipairs(batch.take) do
  local node_key = prefix .. ':node:' .. hold[2]
  local deployment_key = prefix .. ':deployment:' .. hold[3]
  local of_node, of_deployment = count(node_key), count(deployment_key)
  if redis.call('ZSCORE', node_key, hold[1] .. ' ' .. hold[3]) then
    answer[#answer + 1] = 'held'
  elseif of_node >= batch.slots[hold[2]] then
    answer[#answer + 1] = 'node'
  elseif of_deployment >= batch.limits[hold[3]] then
    answer[#answer + 1] = 'deployment'
  else
    redis.call('ZADD', node_key, now_ms + ttl_ms, hold[1] .. ' ' .. hold[3])
    redis.call('ZADD', deployment_key, now_ms + ttl_ms, hold[1] .. ' ' .. hold[2])
    used[node_key], used[deployment_key] = of_node + 1, of_deployment + 1
    answer[#answer + 1] = 'taken'
  end
end
for key, _ in pairs(used) do redis.call('PEXPIRE', key, ttl_ms) end
return answer
