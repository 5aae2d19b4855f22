-- The natural keys by which instances are found; each belongs to one instance of its saga.
CREATE TABLE saga_correlation_key (
    persistence_key TEXT NOT NULL,
    correlation_key TEXT NOT NULL,
    instance_id     TEXT NOT NULL,
    PRIMARY KEY (persistence_key, correlation_key)
) STRICT, WITHOUT ROWID;

CREATE INDEX saga_correlation_key_instance
    ON saga_correlation_key (persistence_key, instance_id);

-- Messages that an instance failed to handle, and those that came after them.
CREATE TABLE saga_parked_message (
    parked_no       INTEGER PRIMARY KEY AUTOINCREMENT,
    persistence_key TEXT    NOT NULL,
    instance_id     TEXT    NOT NULL,
    message_id      BLOB    NOT NULL,
    parked_at       INTEGER NOT NULL,
    tries           INTEGER NOT NULL, -- 0 for one that only waits behind another
    last_error      TEXT,
    contents        TEXT    NOT NULL, -- JSON index of this one message
    body            BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX saga_parked_message_once
    ON saga_parked_message (persistence_key, instance_id, message_id);

CREATE INDEX saga_parked_message_order
    ON saga_parked_message (persistence_key, instance_id, parked_no);
