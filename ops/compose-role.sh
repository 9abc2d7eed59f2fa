#!/usr/bin/env bash
# Of docker-compose.yml: makes the role that the service works as, and gives it its password. It owns nothing; what it
# may do it is told by the migrations, which run as the role that owns the tables. Runs as often as one likes.
set -euo pipefail

psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-aiopypay}" --dbname="${POSTGRES_DB:-aiopypay}" <<'SQL'
\set password `cat "${PASSWORDS:-/run/postgres-password}/service-password"`
SELECT 'CREATE ROLE aiopypay_service LOGIN'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'aiopypay_service') \gexec
SET log_min_error_statement = panic;
ALTER ROLE aiopypay_service PASSWORD :'password';
SQL
