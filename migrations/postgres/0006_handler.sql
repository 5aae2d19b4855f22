-- The natural keys by which instances are found; each belongs to one instance of its saga.
CREATE TABLE saga_correlation_key (
    persistence_key text COLLATE "C" NOT NULL,
    correlation_key text COLLATE "C" NOT NULL,
    instance_id     text COLLATE "C" NOT NULL,
    PRIMARY KEY (persistence_key, correlation_key)
);

CREATE INDEX saga_correlation_key_instance
    ON saga_correlation_key (persistence_key, instance_id);

-- Messages that an instance failed to handle, and those that came after them.
CREATE TABLE saga_parked_message (
    parked_no       bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    persistence_key text COLLATE "C" NOT NULL,
    instance_id     text COLLATE "C" NOT NULL,
    message_id      uuid    NOT NULL,
    parked_at       bigint  NOT NULL,
    tries           integer NOT NULL, -- 0 for one that only waits behind another
    last_error      text,
    contents        text    NOT NULL, -- JSON index of this one message
    body            bytea   NOT NULL
);

CREATE UNIQUE INDEX saga_parked_message_once
    ON saga_parked_message (persistence_key, instance_id, message_id);

CREATE INDEX saga_parked_message_order
    ON saga_parked_message (persistence_key, instance_id, parked_no);
