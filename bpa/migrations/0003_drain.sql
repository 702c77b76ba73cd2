-- What an operator decided about a node. It outlives restarts of the node and of control, until the
-- node is uncordoned.
alter table nodes
add column cordoned_at timestamptz, -- it gets no new lease since then
add column drain_started_at timestamptz,
-- until then what it runs may end by itself; what is left then is handed back
add column drain_deadline_at timestamptz,
-- a node that is to become empty must not be filled
add constraint nodes_draining_are_cordoned check (
    (drain_started_at is null) = (drain_deadline_at is null)
    and (drain_deadline_at is null or cordoned_at is not null)
);
