-- Deliveries of the first release have no number: a later delivery would never end them. A run had
-- one message then, so theirs is the run's.
update deliveries
set sequence_number = (runs.input_ref ->> 'sequence_number')::bigint
from runs
where runs.run_id = deliveries.run_id and deliveries.sequence_number is null;
