-- The outbox's fast lane: a thin mark for each commit with undelivered messages.
CREATE TABLE saga_outbox (
    recorded_at   bigint  NOT NULL, -- delivery order
    stream_id     bigint  NOT NULL,
    commit_no     bigint  NOT NULL,
    message_count integer NOT NULL,
    PRIMARY KEY (recorded_at, stream_id, commit_no)
);

-- The outbox's slow lane: records saved without a saga, records that are due later, and what is
-- left of a commit once some of its messages were acknowledged.
CREATE TABLE saga_outbox_message (
    message_no     bigint   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition_no   bigint   NOT NULL,
    recorded_at    bigint   NOT NULL, -- delivery order
    stream_id      bigint   NOT NULL, -- 0 for a record that was saved without a saga
    commit_no      bigint   NOT NULL,
    message_index  bigint   NOT NULL,
    available_at   bigint   NOT NULL, -- not to be delivered before
    attempts       integer  NOT NULL DEFAULT 0,
    last_error     text,
    dead_at        bigint,
    aggregate_type text     NOT NULL,
    aggregate_id   text     NOT NULL,
    contents       text     NOT NULL, -- JSON index of this one message
    body           bytea    NOT NULL
);

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
