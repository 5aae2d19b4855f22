-- The natural keys by which instances are found; each belongs to one instance of its saga.
CREATE TABLE IF NOT EXISTS saga_correlation_key (
    persistence_key VARBINARY(160) NOT NULL,
    correlation_key VARBINARY(512) NOT NULL,
    instance_id     VARBINARY(512) NOT NULL,
    PRIMARY KEY (persistence_key, correlation_key),
    KEY saga_correlation_key_instance (persistence_key, instance_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- Messages that an instance failed to handle, and those that came after them.
CREATE TABLE IF NOT EXISTS saga_parked_message (
    parked_no       BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
    persistence_key VARBINARY(160) NOT NULL,
    instance_id     VARBINARY(512) NOT NULL,
    message_id      BINARY(16)     NOT NULL,
    parked_at       BIGINT         NOT NULL,
    tries           INT            NOT NULL, -- 0 for one that only waits behind another
    last_error      TEXT,
    contents        LONGTEXT       NOT NULL, -- JSON index of this one message
    body            LONGBLOB       NOT NULL,
    UNIQUE KEY saga_parked_message_once (persistence_key, instance_id, message_id),
    KEY saga_parked_message_order (persistence_key, instance_id, parked_no)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
