-- What consumers without a saga have handled.
CREATE TABLE saga_inbox (
    consumer   text   COLLATE "C" NOT NULL,
    message_id uuid   NOT NULL,
    handled_at bigint NOT NULL,
    PRIMARY KEY (consumer, message_id)
);

-- For what is forgotten after a while.
CREATE INDEX saga_inbox_age
    ON saga_inbox (consumer, handled_at);
