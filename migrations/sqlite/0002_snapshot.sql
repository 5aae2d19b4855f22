-- States of instances, as a cache of what their events make of them.
CREATE TABLE saga_snapshot (
    stream_id       INTEGER NOT NULL,
    revision        INTEGER NOT NULL,
    commit_no       INTEGER NOT NULL,
    persistence_key TEXT    NOT NULL,
    data_version    INTEGER NOT NULL,
    content_type    TEXT    NOT NULL,
    checksum        INTEGER NOT NULL,
    taken_at        INTEGER NOT NULL,
    body            BLOB    NOT NULL,
    PRIMARY KEY (stream_id, revision)
) STRICT;
