-- Everything about the store that is not a record. One row.
CREATE TABLE semel_meta (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL,
    -- Tokens are this and the next number of semel_tokens. It rises when a record with a greater one is imported.
    token_floor bigint NOT NULL
);
INSERT INTO semel_meta (version, token_floor) VALUES (1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);

CREATE SEQUENCE semel_tokens;

-- Times are microseconds since 1970. The order of the columns leaves no gaps between them.
CREATE TABLE semel_records (
    digest uuid PRIMARY KEY,
    attempt uuid NOT NULL,
    target uuid NOT NULL,
    payload uuid NOT NULL,
    token bigint NOT NULL,
    claimed_us bigint NOT NULL,
    doubt_retention_us bigint NOT NULL,
    lease_us bigint,                     -- in flight
    execute_us bigint,                   -- in flight
    settled_us bigint,                   -- in doubt since, or finished at
    expires_us bigint,                   -- all but in flight
    generation integer NOT NULL,
    code integer,                        -- finished, as the next four
    state smallint NOT NULL,             -- 0 in flight, 1 in doubt, 2 completed, 3 failed, 4 released
    cause smallint,                      -- in doubt
    body_kept boolean,
    tenant text NOT NULL,
    operation text NOT NULL,
    key text NOT NULL,
    variant uuid,
    head bytea,
    body bytea
) WITH (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_analyze_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX semel_records_by_expiry ON semel_records (expires_us) WHERE state > 0;
CREATE INDEX semel_records_open ON semel_records (digest) WHERE state < 2;
