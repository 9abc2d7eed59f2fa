-- A row a node: how many writing transactions of it this database holds, and a random token that the last one wrote.
-- Each writing transaction of a node demands, under the row's lock, the token that the node knows, and replaces it: so
-- a database restored from an older backup, a standby that lagged and was promoted, or a node's data directory put back
-- from a copy is noticed before anything is booked. The row stays when its node is forgotten or stopped.
CREATE TABLE moments (
    node_id UUID PRIMARY KEY,
    count BIGINT NOT NULL,
    token UUID NOT NULL,
    written_at TIMESTAMPTZ NOT NULL DEFAULT now()
) WITH (fillfactor = 30);

-- What opened accounts: the sign-up credit of users who are to be made again is found by it.
CREATE INDEX transfers_openings_idx ON transfers (to_account_id) WHERE kind = 'opening';
