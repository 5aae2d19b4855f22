-- Messages that instances sent to themselves for later. What is due moves to the outbox's slow lane, so that what is
-- not costs the readers of the outbox nothing.
CREATE TABLE IF NOT EXISTS saga_timeout (
    stream_id      BIGINT          NOT NULL,
    name           VARBINARY(160)  NOT NULL,
    partition_no   BIGINT          NOT NULL, -- that of the stream
    due_at         BIGINT          NOT NULL,
    scheduled_at   BIGINT          NOT NULL, -- when the unit of work was recorded
    commit_no      BIGINT          NOT NULL, -- of the unit of work
    message_index  BIGINT          NOT NULL, -- beyond those of the messages of any commit
    aggregate_type VARBINARY(255)  NOT NULL,
    aggregate_id   VARBINARY(1024) NOT NULL,
    contents       LONGTEXT        NOT NULL, -- JSON index of this one message
    body           LONGBLOB        NOT NULL,
    PRIMARY KEY (stream_id, name),
    KEY saga_timeout_due (due_at, partition_no, stream_id, commit_no, message_index)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- Of a timeout that is due, so that it can still be cancelled. Only MariaDB knows ADD COLUMN IF NOT EXISTS.
SET @saga_statement = IF(
    EXISTS (
        SELECT 1
        FROM information_schema.columns
        WHERE table_schema = DATABASE()
            AND table_name = 'saga_outbox_message'
            AND column_name = 'timeout_name'
    ),
    'DO 0',
    'ALTER TABLE saga_outbox_message ADD COLUMN timeout_name VARBINARY(160)'
);
PREPARE saga_statement FROM @saga_statement;
EXECUTE saga_statement;
DEALLOCATE PREPARE saga_statement;
