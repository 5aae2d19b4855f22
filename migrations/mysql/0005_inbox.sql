-- What consumers without a saga have handled.
CREATE TABLE IF NOT EXISTS saga_inbox (
    consumer   VARBINARY(255) NOT NULL,
    message_id BINARY(16)     NOT NULL,
    handled_at BIGINT         NOT NULL,
    PRIMARY KEY (consumer, message_id),
    -- For what is forgotten after a while.
    KEY saga_inbox_age (consumer, handled_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
