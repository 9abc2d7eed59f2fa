-- The service works as a role of its own, which owns nothing here (service_rights.sql). Of what it may do elsewhere,
-- making temporary tables is left: nobody's can stand in place of ours where references are checked, either.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION check_users_of_orders() SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION check_references_of_transfers() SET search_path = %I, pg_temp', current_schema());
END
$$;
