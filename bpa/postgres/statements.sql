-- name: bound_time
-- Have the transaction's statements answered within a time, or not at all.
select set_config('statement_timeout', %(time_ms)s, true);

-- name: by_bitmap
-- Have the transaction's statements gather what indexes find before they look at tables. A bitmap over
-- its memory forgets which rows of a page it means, and all of them are looked at.
select
    set_config('enable_seqscan', 'off', true),
    set_config('enable_indexscan', 'off', true),
    set_config('work_mem', '32MB', true);

-- name: in_order
-- Have the transaction's statements read indexes row by row.
select set_config('enable_bitmapscan', 'off', true);
