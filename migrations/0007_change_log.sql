-- What was changed by others than the service, so that its nodes, which remember accounts, users and currencies, learn
-- of it: corrections by hand, users deactivated in SQL, whatever else is no node's. A node's sessions say that they are
-- one (aiopypay.node), and write nothing here.

CREATE TABLE change_log (
    -- By the transaction a reader tells what it can have seen. Ids from a sequence become visible out of their order.
    xact_id XID8 NOT NULL DEFAULT pg_current_xact_id(),
    logged_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    -- 'everything' is in the place of what was dropped from the log: who had not read it must read all tables anew.
    subject TEXT NOT NULL CHECK (subject IN ('accounts', 'users', 'currencies', 'everything')),
    -- NULL: any row may have changed.
    row_id BIGINT
);

CREATE INDEX change_log_xact_id_idx ON change_log (xact_id);

-- With the owner's rights: whoever may change an account need not be allowed to write here.
CREATE FUNCTION log_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF TG_TABLE_NAME = 'currencies' THEN
        INSERT INTO change_log (subject) SELECT TG_TABLE_NAME WHERE EXISTS (SELECT FROM changed);
    ELSIF (SELECT count(*) > 10000 FROM (SELECT FROM changed LIMIT 10001) AS first_rows) THEN
        INSERT INTO change_log (subject) VALUES (TG_TABLE_NAME);
    ELSE
        INSERT INTO change_log (subject, row_id) SELECT TG_TABLE_NAME, changed.id FROM changed;
    END IF;
    RETURN NULL;
END
$$;

-- Temporary tables come last, so that nobody's can stand in place of ours.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION log_change() SET search_path = %I, pg_temp', current_schema());
END
$$;

-- The condition is asked once a statement, before the function is called. ALWAYS: as a replica, too.
CREATE TRIGGER accounts_log_insert AFTER INSERT ON accounts REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT WHEN (coalesce(current_setting('aiopypay.node', TRUE), '') = '') EXECUTE FUNCTION log_change();
CREATE TRIGGER accounts_log_update AFTER UPDATE ON accounts REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT WHEN (coalesce(current_setting('aiopypay.node', TRUE), '') = '') EXECUTE FUNCTION log_change();
CREATE TRIGGER users_log_insert AFTER INSERT ON users REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT WHEN (coalesce(current_setting('aiopypay.node', TRUE), '') = '') EXECUTE FUNCTION log_change();
CREATE TRIGGER users_log_update AFTER UPDATE ON users REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT WHEN (coalesce(current_setting('aiopypay.node', TRUE), '') = '') EXECUTE FUNCTION log_change();
CREATE TRIGGER currencies_log_insert AFTER INSERT ON currencies REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT WHEN (coalesce(current_setting('aiopypay.node', TRUE), '') = '') EXECUTE FUNCTION log_change();
CREATE TRIGGER currencies_log_update AFTER UPDATE ON currencies REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT WHEN (coalesce(current_setting('aiopypay.node', TRUE), '') = '') EXECUTE FUNCTION log_change();

ALTER TABLE accounts
ENABLE ALWAYS TRIGGER accounts_log_insert,
ENABLE ALWAYS TRIGGER accounts_log_update;
ALTER TABLE users
ENABLE ALWAYS TRIGGER users_log_insert,
ENABLE ALWAYS TRIGGER users_log_update;
ALTER TABLE currencies
ENABLE ALWAYS TRIGGER currencies_log_insert,
ENABLE ALWAYS TRIGGER currencies_log_update;

-- A session that poses as a replica (session_replication_role) skipped these. A change that raised no version was older
-- than what is remembered of the row, and what was deleted, or had another id, was remembered for good.
ALTER TABLE accounts
ENABLE ALWAYS TRIGGER accounts_mark_change,
ENABLE ALWAYS TRIGGER accounts_are_kept,
ENABLE ALWAYS TRIGGER accounts_keep_their_ids;
ALTER TABLE users
ENABLE ALWAYS TRIGGER users_mark_change,
ENABLE ALWAYS TRIGGER users_count_deactivation,
ENABLE ALWAYS TRIGGER users_are_kept,
ENABLE ALWAYS TRIGGER users_keep_their_ids;
ALTER TABLE currencies ENABLE ALWAYS TRIGGER currencies_are_kept;
ALTER TABLE orders ENABLE ALWAYS TRIGGER orders_are_final;
ALTER TABLE transfers ENABLE ALWAYS TRIGGER transfers_are_final;
