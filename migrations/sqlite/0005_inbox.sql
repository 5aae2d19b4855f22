-- What consumers without a saga have handled.
CREATE TABLE saga_inbox (
    consumer   TEXT    NOT NULL,
    message_id BLOB    NOT NULL,
    handled_at INTEGER NOT NULL,
    PRIMARY KEY (consumer, message_id)
) STRICT, WITHOUT ROWID;

-- For what is forgotten after a while.
CREATE INDEX saga_inbox_age
    ON saga_inbox (consumer, handled_at);
