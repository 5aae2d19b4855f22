-- A row per resource that was ever leased; it stays when the lease is released, so that tokens rise.
CREATE TABLE IF NOT EXISTS saga_lease (
    namespace   VARBINARY(160) NOT NULL,
    resource_id VARBINARY(512) NOT NULL,
    client_id   VARBINARY(255),          -- NULL once released
    request_id  BINARY(16)     NOT NULL, -- of the call that obtained it
    token       BIGINT         NOT NULL, -- rises with every acquisition
    obtained_at BIGINT         NOT NULL,
    expires_at  BIGINT         NOT NULL,
    lock_delay  BIGINT         NOT NULL, -- after an expiry, free only so much later
    PRIMARY KEY (namespace, resource_id),
    -- A fence locks its entry here alone: taking a lease over waits for it, renewing does not.
    UNIQUE KEY saga_lease_token (namespace, resource_id, token)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
