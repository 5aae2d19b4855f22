-- A row per resource that was ever leased; it stays when the lease is released, so that tokens rise.
CREATE TABLE saga_lease (
    namespace   TEXT    NOT NULL,
    resource_id TEXT    NOT NULL,
    client_id   TEXT,             -- NULL once released
    request_id  BLOB    NOT NULL, -- of the call that obtained it
    token       INTEGER NOT NULL, -- rises with every acquisition
    obtained_at INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    lock_delay  INTEGER NOT NULL, -- after an expiry, free only so much later
    PRIMARY KEY (namespace, resource_id)
) STRICT, WITHOUT ROWID;
