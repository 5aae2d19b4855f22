-- Messages that instances sent to themselves for later. What is due moves to the outbox's slow lane, so that what is
-- not costs the readers of the outbox nothing.
CREATE TABLE saga_timeout (
    stream_id      INTEGER NOT NULL,
    name           TEXT    NOT NULL,
    partition_no   INTEGER NOT NULL, -- that of the stream
    due_at         INTEGER NOT NULL,
    scheduled_at   INTEGER NOT NULL, -- when the unit of work was recorded
    commit_no      INTEGER NOT NULL, -- of the unit of work
    message_index  INTEGER NOT NULL, -- beyond those of the messages of any commit
    aggregate_type TEXT    NOT NULL,
    aggregate_id   TEXT    NOT NULL,
    contents       TEXT    NOT NULL, -- JSON index of this one message
    body           BLOB    NOT NULL,
    PRIMARY KEY (stream_id, name)
) STRICT;

CREATE INDEX saga_timeout_due
    ON saga_timeout (due_at, partition_no, stream_id, commit_no, message_index);

-- Of a timeout that is due, so that it can still be cancelled.
ALTER TABLE saga_outbox_message ADD COLUMN timeout_name TEXT;
