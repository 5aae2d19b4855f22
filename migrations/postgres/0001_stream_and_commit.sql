-- One row per stream. A row without commits means nothing: the stream does not exist yet.
CREATE TABLE saga_stream (
    stream_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream_name     text COLLATE "C" NOT NULL UNIQUE,
    persistence_key text COLLATE "C",  -- the saga; null for a stream started by a plain append
    instance_id     text COLLATE "C",
    created_at      bigint NOT NULL,   -- microseconds since 1970, as all times here
    completed_at    bigint
);

-- One row per unit of work. Its number in the stream is the concurrency check.
CREATE TABLE saga_commit (
    stream_id          bigint  NOT NULL,
    commit_no          bigint  NOT NULL, -- 1, 2, 3, …
    first_offset       bigint  NOT NULL, -- of the first event; of the next one if there is none
    event_count        integer NOT NULL,
    message_count      integer NOT NULL, -- events and commands
    completed          boolean NOT NULL, -- the instance is completed as of this commit
    position           bigint  GENERATED ALWAYS AS IDENTITY,
    xid                bigint  NOT NULL, -- the writing transaction, or a later one of the same stream
    handled_message_id uuid,
    causation_id       uuid,             -- if all messages share it
    correlation_id     uuid,
    recorded_at        bigint  NOT NULL, -- strictly rising within the stream
    checksum           bigint  NOT NULL, -- CRC-32 over contents and body
    contents           text    NOT NULL, -- JSON index of the messages
    body               bytea   NOT NULL, -- their payloads, one after another
    PRIMARY KEY (stream_id, commit_no)
);

-- Bodies are cut into slices on every read: keep them uncompressed.
ALTER TABLE saga_commit ALTER COLUMN body SET STORAGE EXTERNAL;

-- Once only: a message is handled at most once per stream.
CREATE UNIQUE INDEX saga_commit_handled
    ON saga_commit (stream_id, handled_message_id)
    WHERE handled_message_id IS NOT NULL;

-- The global order.
CREATE INDEX saga_commit_global_order
    ON saga_commit (xid, position);

-- How transaction numbers of earlier clusters were shifted when the data was restored into another.
CREATE TABLE saga_global_epoch (
    epoch bigint PRIMARY KEY,
    shift bigint NOT NULL -- taken from the numbers of the epoch before
);

-- Where named readers of the global order stand.
CREATE TABLE saga_consumer (
    consumer text COLLATE "C" PRIMARY KEY,
    position text COLLATE "C" NOT NULL
);

-- Events of one commit, for the view below; none of a commit whose columns do not fit together.
CREATE FUNCTION saga_commit_events(contents text, body bytea)
RETURNS TABLE (
    event_no     bigint,
    message_id   text,
    type_name    text,
    type_version integer,
    content_type text,
    payload      text
)
LANGUAGE plpgsql
IMMUTABLE
AS $$
BEGIN
    RETURN QUERY
    SELECT
        row_number() OVER (ORDER BY n.place),
        n.message_id,
        n.type_name,
        n.type_version,
        n.content_type,
        CASE
            WHEN n.content_type = 'application/json'
            THEN convert_from(substring(body FROM (n.until - n.length + 1)::integer FOR n.length::integer), 'UTF8')
        END
    FROM (
        SELECT
            e.place,
            e.message ->> 'id'                                                   AS message_id,
            e.message ->> 'type'                                                 AS type_name,
            COALESCE((e.message ->> 'v')::integer, 1)                            AS type_version,
            COALESCE(e.message ->> 'ct', 'application/json')                     AS content_type,
            COALESCE(e.message ->> 'kind', 'event')                              AS kind,
            (e.message ->> 'len')::bigint                                        AS length,
            (SUM((e.message ->> 'len')::bigint) OVER (ORDER BY e.place))::bigint AS until
        FROM json_array_elements(
            -- A NUL, which no text here can hold, is shown as the replacement character.
            regexp_replace(contents, '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffd', 'g')::json -> 'messages'
        ) WITH ORDINALITY AS e (message, place)
    ) AS n
    WHERE n.kind = 'event';
EXCEPTION
    WHEN OTHERS THEN
        RETURN;
END
$$;

-- For people: one row per event. Payloads as text where they are JSON.
CREATE VIEW saga_event AS
SELECT
    s.stream_name,
    c.first_offset + e.event_no - 1 AS event_offset,
    c.commit_no,
    e.message_id,
    e.type_name,
    e.type_version,
    c.recorded_at,
    e.content_type,
    e.payload
FROM saga_commit AS c
JOIN saga_stream AS s
    ON s.stream_id = c.stream_id
CROSS JOIN LATERAL saga_commit_events(c.contents, c.body) AS e;
