-- MariaDB finds nothing by an index over virtual columns while another transaction has changed what the page of that index
-- holds, not even the rows that nobody touched. So the columns are stored. The statement can be repeated.
ALTER TABLE saga_outbox_message
    DROP KEY saga_outbox_message_origin,
    DROP KEY saga_outbox_message_failed,
    DROP COLUMN has_failed,
    DROP COLUMN origin_id,
    ADD COLUMN has_failed TINYINT GENERATED ALWAYS AS (attempts > 0) STORED,
    ADD COLUMN origin_id BIGINT GENERATED ALWAYS AS (NULLIF(stream_id, 0)) STORED,
    ADD UNIQUE KEY saga_outbox_message_origin (origin_id, commit_no, message_index),
    ADD KEY saga_outbox_message_failed (has_failed, stream_id, aggregate_type, aggregate_id);
