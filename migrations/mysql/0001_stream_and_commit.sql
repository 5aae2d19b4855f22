-- Every statement here can be repeated: these databases commit after each one, so a migration that
-- was interrupted is run again from its start.

-- One row per stream. A row without commits means nothing: the stream does not exist yet.
-- Names are bytes of UTF-8, so that they are compared byte for byte.
CREATE TABLE IF NOT EXISTS saga_stream (
    stream_id       BIGINT          NOT NULL AUTO_INCREMENT,
    stream_name     VARBINARY(1024) NOT NULL,
    persistence_key VARBINARY(160),           -- the saga; null for a stream started by a plain append
    instance_id     VARBINARY(512),
    created_at      BIGINT          NOT NULL, -- microseconds since 1970, as all times here
    completed_at    BIGINT,
    PRIMARY KEY (stream_id),
    UNIQUE KEY saga_stream_name (stream_name)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- One row per unit of work. Its number in the stream is the concurrency check.
CREATE TABLE IF NOT EXISTS saga_commit (
    stream_id          BIGINT   NOT NULL,
    commit_no          BIGINT   NOT NULL, -- 1, 2, 3, …
    first_offset       BIGINT   NOT NULL, -- of the first event; of the next one if there is none
    event_count        INT      NOT NULL,
    message_count      INT      NOT NULL, -- events and commands
    completed          BOOLEAN  NOT NULL, -- the instance is completed as of this commit
    handled_message_id BINARY(16),
    causation_id       BINARY(16),        -- if all messages share it
    correlation_id     BINARY(16),
    recorded_at        BIGINT   NOT NULL, -- strictly rising within the stream
    undelivered        BIGINT,            -- recorded_at until the outbox has delivered all messages
    checksum           BIGINT   NOT NULL, -- CRC-32 over contents and body
    contents           LONGTEXT NOT NULL, -- JSON index of the messages
    body               LONGBLOB NOT NULL, -- their payloads, one after another
    PRIMARY KEY (stream_id, commit_no),
    -- Once only: a message is handled at most once per stream.
    UNIQUE KEY saga_commit_handled (stream_id, handled_message_id),
    -- The outbox's fast lane; InnoDB adds the primary key.
    KEY saga_commit_undelivered (undelivered)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The global order, where it is switched on: one row that every commit locks to count on …
CREATE TABLE IF NOT EXISTS saga_global_order (
    id       TINYINT NOT NULL, -- always 1
    enabled  BOOLEAN NOT NULL,
    position BIGINT  NOT NULL, -- the last one given out
    PRIMARY KEY (id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

INSERT IGNORE INTO saga_global_order (
    id,
    enabled,
    position
)
VALUES (
    1,
    FALSE,
    0
);

-- … and the places of the commits.
CREATE TABLE IF NOT EXISTS saga_position (
    position  BIGINT NOT NULL,
    stream_id BIGINT NOT NULL,
    commit_no BIGINT NOT NULL,
    PRIMARY KEY (position)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- Where named readers of the global order stand.
CREATE TABLE IF NOT EXISTS saga_consumer (
    consumer VARBINARY(255) NOT NULL,
    position VARCHAR(255)   NOT NULL,
    PRIMARY KEY (consumer)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- For people: one row per event. Payloads as text where they are JSON; rows whose contents do not
-- parse are left out.
CREATE OR REPLACE SQL SECURITY INVOKER VIEW saga_event AS
SELECT
    stream_name,
    first_offset + event_no - 1 AS event_offset,
    commit_no,
    message_id,
    type_name,
    type_version,
    recorded_at,
    content_type,
    CASE
        WHEN content_type = 'application/json' THEN CONVERT(SUBSTRING(body, 1 + start, length) USING utf8mb4)
    END AS payload
FROM (
    SELECT
        m.*,
        CAST(SUM(kind = 'event') OVER (PARTITION BY stream_id, commit_no ORDER BY place) AS SIGNED)       AS event_no,
        CAST(SUM(length) OVER (PARTITION BY stream_id, commit_no ORDER BY place) AS SIGNED) - length      AS start
    FROM (
        SELECT
            CONVERT(s.stream_name USING utf8mb4)        AS stream_name,
            c.stream_id,
            c.commit_no,
            c.first_offset,
            c.recorded_at,
            c.body,
            e.place,
            COALESCE(e.kind, 'event')                   AS kind,
            e.message_id,
            e.type_name,
            COALESCE(e.type_version, 1)                 AS type_version,
            COALESCE(e.content_type, 'application/json') AS content_type,
            COALESCE(e.length, 0)                       AS length
        FROM saga_commit AS c
        JOIN saga_stream AS s
            ON s.stream_id = c.stream_id
        JOIN JSON_TABLE(
            CASE WHEN JSON_VALID(c.contents) THEN c.contents ELSE '{}' END,
            '$.messages[*]'
            COLUMNS (
                place        FOR ORDINALITY,
                kind         VARCHAR(255) PATH '$.kind',
                message_id   VARCHAR(255) PATH '$.id',
                type_name    VARCHAR(255) PATH '$.type',
                type_version BIGINT       PATH '$.v',
                content_type VARCHAR(255) PATH '$.ct',
                length       BIGINT       PATH '$.len'
            )
        ) AS e
        WHERE e.message_id IS NOT NULL
    ) AS m
) AS n
WHERE kind = 'event';
