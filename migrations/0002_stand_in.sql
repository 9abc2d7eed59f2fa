-- Working without the database: which installation this is, which nodes serve it, and which one stands in.

-- One row. A node recognises its database by the id, and shows by the heartbeat that it can be written.
CREATE TABLE installation (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    heartbeat_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    only_row BOOLEAN NOT NULL UNIQUE DEFAULT TRUE CHECK (only_row)
);

INSERT INTO installation DEFAULT VALUES;

-- A node is a data directory; its id lies inside.
CREATE TABLE nodes (
    id UUID PRIMARY KEY,
    registered_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_seen_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- One row: the node that may accept payments without the database. It does not expire.
CREATE TABLE stand_in_lease (
    only_row BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (only_row),
    node_id UUID REFERENCES nodes,
    taken_at TIMESTAMPTZ
);

INSERT INTO stand_in_lease DEFAULT VALUES;

-- For the node that stands in, to follow what others change.
CREATE INDEX users_changed_at_idx ON users ((coalesce(updated_at, created_at)));
