-- What the target last answered to an effect that an execution sent and that it did not take: domain's
-- EffectCall. The step of such an effect says nothing of it, since it is open for the next execution.
alter table executions add column heard jsonb;
