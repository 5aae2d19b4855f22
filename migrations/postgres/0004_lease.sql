-- A row per resource that was ever leased; it stays when the lease is released, so that tokens rise.
CREATE TABLE saga_lease (
    namespace   text   COLLATE "C" NOT NULL,
    resource_id text   COLLATE "C" NOT NULL,
    client_id   text,            -- NULL once released
    request_id  uuid   NOT NULL, -- of the call that obtained it
    token       bigint NOT NULL, -- rises with every acquisition
    obtained_at bigint NOT NULL,
    expires_at  bigint NOT NULL,
    lock_delay  bigint NOT NULL, -- after an expiry, free only so much later
    PRIMARY KEY (namespace, resource_id)
);

-- Makes the token part of a key: taking a lease over waits for who shares the key, renewing it does not.
CREATE UNIQUE INDEX saga_lease_token
    ON saga_lease (namespace, resource_id, token);
