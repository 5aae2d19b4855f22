-- States of instances, as a cache of what their events make of them.
CREATE TABLE saga_snapshot (
    stream_id       bigint NOT NULL,
    revision        bigint NOT NULL,
    commit_no       bigint NOT NULL,
    persistence_key text COLLATE "C" NOT NULL,
    data_version    bigint NOT NULL,
    content_type    text   NOT NULL,
    checksum        bigint NOT NULL,
    taken_at        bigint NOT NULL,
    body            bytea  NOT NULL,
    PRIMARY KEY (stream_id, revision)
);
