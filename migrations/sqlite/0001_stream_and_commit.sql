-- One row per stream. A row without commits means nothing: the stream does not exist yet.
CREATE TABLE saga_stream (
    stream_id       INTEGER PRIMARY KEY AUTOINCREMENT,
    stream_name     TEXT    NOT NULL COLLATE BINARY UNIQUE,
    persistence_key TEXT,             -- the saga; null for a stream started by a plain append
    instance_id     TEXT,
    created_at      INTEGER NOT NULL, -- microseconds since 1970, as all times here
    completed_at    INTEGER
) STRICT;

-- One row per unit of work. Its number in the stream is the concurrency check.
CREATE TABLE saga_commit (
    position           INTEGER PRIMARY KEY AUTOINCREMENT, -- global order; never given out twice
    stream_id          INTEGER NOT NULL,
    commit_no          INTEGER NOT NULL, -- 1, 2, 3, …
    first_offset       INTEGER NOT NULL, -- of the first event; of the next one if there is none
    event_count        INTEGER NOT NULL,
    message_count      INTEGER NOT NULL, -- events and commands
    completed          INTEGER NOT NULL, -- the instance is completed as of this commit
    handled_message_id BLOB,
    causation_id       BLOB,             -- if all messages share it
    correlation_id     BLOB,
    recorded_at        INTEGER NOT NULL, -- strictly rising within the stream
    undelivered        INTEGER,          -- recorded_at until the outbox has delivered all messages
    checksum           INTEGER NOT NULL, -- CRC-32 over contents and body
    contents           TEXT    NOT NULL, -- JSON index of the messages
    body               BLOB    NOT NULL, -- their payloads, one after another
    UNIQUE (stream_id, commit_no)
) STRICT;

-- Once only: a message is handled at most once per stream.
CREATE UNIQUE INDEX saga_commit_handled
    ON saga_commit (stream_id, handled_message_id)
    WHERE handled_message_id IS NOT NULL;

-- The outbox's fast lane.
CREATE INDEX saga_commit_undelivered
    ON saga_commit (undelivered, stream_id, commit_no)
    WHERE undelivered IS NOT NULL;

-- Where named readers of the global order stand.
CREATE TABLE saga_consumer (
    consumer   TEXT NOT NULL COLLATE BINARY PRIMARY KEY,
    position   TEXT NOT NULL
) STRICT;

-- For people: one row per event. Payloads as text where they are JSON; rows whose contents do not
-- parse are left out.
CREATE VIEW saga_event AS
SELECT
    stream_name,
    first_offset + event_no - 1 AS event_offset,
    commit_no,
    message_id,
    type_name,
    type_version,
    recorded_at,
    content_type,
    CASE WHEN content_type = 'application/json' THEN CAST(substr(body, 1 + start, length) AS TEXT) END AS payload
FROM (
    SELECT
        m.*,
        COUNT(*) FILTER (WHERE kind = 'event') OVER (PARTITION BY position ORDER BY place)  AS event_no,
        SUM(length) OVER (PARTITION BY position ORDER BY place) - length                    AS start
    FROM (
        SELECT
            s.stream_name,
            c.position,
            c.commit_no,
            c.first_offset,
            c.recorded_at,
            c.body,
            e.key                                             AS place,
            COALESCE(e.value ->> '$.kind', 'event')           AS kind,
            e.value ->> '$.id'                                AS message_id,
            e.value ->> '$.type'                              AS type_name,
            COALESCE(e.value ->> '$.v', 1)                    AS type_version,
            COALESCE(e.value ->> '$.ct', 'application/json')  AS content_type,
            -- Bounded, so that the sum over a damaged row does not overflow.
            MIN(MAX(CAST(COALESCE(e.value ->> '$.len', 0) AS INTEGER), 0), 1073741824) AS length
        FROM saga_commit AS c
        JOIN saga_stream AS s
            ON s.stream_id = c.stream_id
        JOIN json_each(CASE WHEN json_valid(c.contents) THEN c.contents ELSE '{}' END, '$.messages') AS e
        WHERE e.type = 'object'
    ) AS m
) AS n
WHERE kind = 'event';
