-- The outbox's slow lane: records saved without a saga, records that are due later, and what is
-- left of a commit once some of its messages were acknowledged.
CREATE TABLE saga_outbox_message (
    message_no     INTEGER PRIMARY KEY AUTOINCREMENT,
    partition_no   INTEGER NOT NULL,
    recorded_at    INTEGER NOT NULL, -- delivery order
    stream_id      INTEGER NOT NULL, -- 0 for a record that was saved without a saga
    commit_no      INTEGER NOT NULL,
    message_index  INTEGER NOT NULL,
    available_at   INTEGER NOT NULL, -- not to be delivered before
    attempts       INTEGER NOT NULL DEFAULT 0,
    last_error     TEXT,
    dead_at        INTEGER,
    aggregate_type TEXT    NOT NULL,
    aggregate_id   TEXT    NOT NULL,
    contents       TEXT    NOT NULL, -- JSON index of this one message
    body           BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX saga_outbox_message_origin
    ON saga_outbox_message (stream_id, commit_no, message_index)
    WHERE stream_id > 0;

CREATE INDEX saga_outbox_message_order
    ON saga_outbox_message (recorded_at, stream_id, commit_no, message_index, message_no);

-- What failed and was not delivered since: the rest of its stream waits behind it.
CREATE INDEX saga_outbox_message_failed
    ON saga_outbox_message (stream_id, aggregate_type, aggregate_id)
    WHERE attempts > 0;

CREATE INDEX saga_outbox_message_partition
    ON saga_outbox_message (partition_no, recorded_at);
