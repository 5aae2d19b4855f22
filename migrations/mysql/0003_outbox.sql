-- The outbox's slow lane: records saved without a saga, records that are due later, and what is
-- left of a commit once some of its messages were acknowledged.
CREATE TABLE IF NOT EXISTS saga_outbox_message (
    message_no     BIGINT          NOT NULL AUTO_INCREMENT,
    partition_no   BIGINT          NOT NULL,
    recorded_at    BIGINT          NOT NULL, -- delivery order
    stream_id      BIGINT          NOT NULL, -- 0 for a record that was saved without a saga
    commit_no      BIGINT          NOT NULL,
    message_index  BIGINT          NOT NULL,
    available_at   BIGINT          NOT NULL, -- not to be delivered before
    attempts       BIGINT          NOT NULL DEFAULT 0,
    last_error     MEDIUMTEXT,
    dead_at        BIGINT,
    aggregate_type VARBINARY(255)  NOT NULL,
    aggregate_id   VARBINARY(1024) NOT NULL,
    contents       LONGTEXT        NOT NULL, -- JSON index of this one message
    body           LONGBLOB        NOT NULL,
    has_failed     TINYINT GENERATED ALWAYS AS (attempts > 0) VIRTUAL,
    origin_id      BIGINT GENERATED ALWAYS AS (NULLIF(stream_id, 0)) VIRTUAL,
    PRIMARY KEY (message_no),
    UNIQUE KEY saga_outbox_message_origin (origin_id, commit_no, message_index),
    KEY saga_outbox_message_order (recorded_at, stream_id, commit_no, message_index, message_no),
    -- What failed and was not delivered since: the rest of its stream waits behind it.
    KEY saga_outbox_message_failed (has_failed, stream_id, aggregate_type, aggregate_id),
    KEY saga_outbox_message_partition (partition_no, recorded_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
