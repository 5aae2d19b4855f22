-- States of instances, as a cache of what their events make of them.
CREATE TABLE IF NOT EXISTS saga_snapshot (
    stream_id       BIGINT         NOT NULL,
    revision        BIGINT         NOT NULL,
    commit_no       BIGINT         NOT NULL,
    persistence_key VARBINARY(160) NOT NULL,
    data_version    BIGINT         NOT NULL,
    content_type    VARCHAR(255)   NOT NULL,
    checksum        BIGINT         NOT NULL,
    taken_at        BIGINT         NOT NULL,
    body            LONGBLOB       NOT NULL,
    PRIMARY KEY (stream_id, revision),
    KEY saga_snapshot_commit (stream_id, commit_no)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
