"""The run's own PostgreSQL server: what makes it cheaper without any test noticing."""

import base64
import hashlib
import hmac
import secrets

from psycopg2.extensions import make_dsn

from aiopypay.embedded import EmbeddedPostgres
from aiopypay.embedded.files import write_once
from aiopypay.embedded.roles import ADMINISTRATOR, OWNER, SERVICE
from tests import ledger

# fsync stays on: what is committed is on disk. What is saved is work that no test looks at.
CHEAPER = (
    "checkpoint_timeout = '1h'",
    "max_wal_size = '4GB'",
    "autovacuum = off",
    "jit = off",
    "max_connections = 200",
    "max_wal_senders = 0",
    "wal_level = minimal",
)
# Of 4096, which take both sides more than 2 ms at each connection.
SCRAM_ITERATIONS = 1


def administration_dsn(server: EmbeddedPostgres) -> str:
    """The DSN of the server's superuser, who may do what the service's role may not."""
    return make_dsn(server.administrator_dsn, dbname="postgres")


def share_password(server: EmbeddedPostgres) -> None:
    """Has all roles of a cluster that is still to be made share one password: the roles' rights stay their own.

    So `make_dsn(dsn, user=…)` changes the role, of a database reached by a proxy or a copy of the cluster, too.
    """
    server.data_dir.mkdir(mode=0o700, exist_ok=True)
    password = secrets.token_urlsafe(24)
    for file in server.credentials.files.values():
        write_once(file, password)


def start_cheaper(server: EmbeddedPostgres) -> None:
    """Makes the cluster and starts its server, with settings that save the tests time."""
    share_password(server)
    server.start()
    administration = administration_dsn(server)
    for setting in CHEAPER:
        ledger.query(administration, f"ALTER SYSTEM SET {setting}")
    verifier = scram_verifier(server.credentials.files[SERVICE].read_text("ascii").strip())
    for role in (SERVICE, OWNER, ADMINISTRATOR):
        ledger.query(administration, f"ALTER ROLE {role} PASSWORD %s", (verifier,))
    server.stop()
    server.start()


def scram_verifier(password: str) -> str:
    """Returns what PostgreSQL keeps of a password (RFC 5803). Before version 16 it chooses the iterations itself."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored, server = (base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{salt_text}${stored}:{server}"
