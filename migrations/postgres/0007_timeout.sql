-- Messages that instances sent to themselves for later. What is due moves to the outbox's slow lane, so that what is
-- not costs the readers of the outbox nothing.
CREATE TABLE saga_timeout (
    stream_id      bigint NOT NULL,
    name           text   COLLATE "C" NOT NULL,
    partition_no   bigint NOT NULL, -- that of the stream
    due_at         bigint NOT NULL,
    scheduled_at   bigint NOT NULL, -- when the unit of work was recorded
    commit_no      bigint NOT NULL, -- of the unit of work
    message_index  bigint NOT NULL, -- beyond those of the messages of any commit
    aggregate_type text   NOT NULL,
    aggregate_id   text   NOT NULL,
    contents       text   NOT NULL, -- JSON index of this one message
    body           bytea  NOT NULL,
    PRIMARY KEY (stream_id, name)
);

CREATE INDEX saga_timeout_due
    ON saga_timeout (due_at, partition_no, stream_id, commit_no, message_index);

-- Of a timeout that is due, so that it can still be cancelled.
ALTER TABLE saga_outbox_message ADD COLUMN timeout_name text COLLATE "C";
