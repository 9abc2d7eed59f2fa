-- What the role of the service may do in the database: this, and nothing else. Given anew at each start, after the
-- migrations, by the role that owns the tables, to the one that the setting aiopypay.service_role names. Whoever adds a
-- table, or a column that the service writes, adds it here: default privileges would be the same for every table.
-- History can be added to, and that is all. Of other rows only those columns can be changed that change.
DO $$
DECLARE
    service TEXT := current_setting('aiopypay.service_role');
    home TEXT := (SELECT relnamespace::REGNAMESPACE::TEXT FROM pg_class WHERE oid = 'transfers'::REGCLASS);
    tables TEXT := 'accounts, change_log, currencies, installation, migrations, moments, nodes, orders, '
        'stand_in_lease, transfers, users';
    ids TEXT := concat_ws(
        ', ',
        pg_get_serial_sequence('accounts', 'id'),
        pg_get_serial_sequence('currencies', 'ordinal'),
        pg_get_serial_sequence('transfers', 'id'),
        pg_get_serial_sequence('users', 'id')
    );
    rights TEXT;
BEGIN
    -- Before PostgreSQL 15 everybody might make tables there. Only the schema's owner can change that.
    EXECUTE format('REVOKE CREATE ON SCHEMA %s FROM PUBLIC, %I', home, service);
    EXECUTE format('GRANT USAGE ON SCHEMA %s TO %I', home, service);
    EXECUTE format('REVOKE ALL ON %s FROM %I', tables, service);
    EXECUTE format('REVOKE ALL ON SEQUENCE %s FROM %I', ids, service);
    -- To raise them where an older backup lacks what had ids (`journal replay`).
    EXECUTE format('GRANT SELECT, UPDATE ON SEQUENCE %s TO %I', ids, service);
    EXECUTE format('GRANT SELECT ON %s TO %I', tables, service);
    FOREACH rights IN ARRAY ARRAY[
        'INSERT ON orders',
        -- The id and the time are the database's own.
        'INSERT (order_id, kind, from_account_id, to_account_id, amount, comment) ON transfers',
        -- Money comes into an account by a change that its transfers explain, not with it.
        'INSERT (id, user_id, currency_id, version, created_at, updated_at, order_id) ON accounts',
        'UPDATE (amount, order_id) ON accounts',
        'INSERT ON users',
        'UPDATE (full_name, password_hash, is_admin, is_active, deactivations) ON users',
        'INSERT ON currencies',
        'UPDATE (description, commission) ON currencies',
        'UPDATE (heartbeat_at, departures) ON installation',
        'INSERT (id) ON nodes',
        'UPDATE (last_seen_at) ON nodes',
        'DELETE ON nodes',
        'UPDATE (node_id, taken_at) ON stand_in_lease',
        'INSERT (node_id, count, token) ON moments',
        'UPDATE (count, token, written_at) ON moments',
        -- Of the log all but its newest day is dropped.
        'INSERT (xact_id, subject) ON change_log',
        'DELETE ON change_log'
    ]
    LOOP
        EXECUTE format('GRANT %s TO %I', rights, service);
    END LOOP;
END
$$;
