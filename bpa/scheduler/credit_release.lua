-- End an owner's reservations and note when the runs that came of them were recorded.
-- KEYS[1]  the deployment's reservations, a hash: owner -> "<count> <expiry in ms>"
-- KEYS[2]  when runs were recorded of late, a sorted set by Postgres's clock, microseconds
-- ARGV[1]  owner, a replica
-- ARGV[2]  how long a record is of interest, ms: longer than any room is old
-- ARGV[3...]  for each run recorded its time by Postgres's clock, microseconds
-- Returns nothing.
redis.call('HDEL', KEYS[1], ARGV[1])
for i = 3, #ARGV do
  redis.call('ZADD', KEYS[2], ARGV[i], ARGV[1] .. ' ' .. ARGV[i] .. ' ' .. i)
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', tonumber(ARGV[i]) - ARGV[2] * 1000)
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return redis.status_reply('OK')
