"""Turns a database URL into libpq connection strings that asyncio can use: one address each, nothing left to guess.

Asynchronous libpq resolves names by blocking, and where it moves on to a second address (several hosts, `localhost`
as ::1 and 127.0.0.1, `sslmode=prefer`) the socket changes under the event loop. So names are resolved here, and
each address becomes a connection string of its own.
"""

import asyncio
import socket
from collections.abc import Mapping

from psycopg2.extensions import make_dsn, parse_dsn

# The limits are below the client's own deadline (`database.DEADLINE_SECONDS`), so that a live server speaks first.
STATEMENT_MILLISECONDS = 1_200
# What changes the meaning of our statements, as PostgreSQL shows it. Server, database, role, environment and the
# operator's own `options` may say otherwise; `sessions` sees to it that these count. Not among them, on purpose:
# - search_path: the operator may keep the tables in a schema of their own (`store.schema` checks that it is one);
# - default_transaction_read_only: refused loudly, and what an operator sets to keep a database as it is;
# - session_replication_role, which only a superuser may set: `sessions` refuses what switches triggers off;
# - what changes the form of values that the driver reads in every form (bytea_output, extra_float_digits), warnings
#   and the language of messages, the layout of what is made (default_tablespace), and plans, not results
#   (enable_*, plan_cache_mode). Nothing of ours computes with intervals, floats, XML, or in a locale.
SESSION_SETTINGS = {
    "statement_timeout": f"{STATEMENT_MILLISECONDS}ms",
    "lock_timeout": "400ms",
    "idle_in_transaction_session_timeout": "3s",
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    # On, it ends the session with the first error: a duplicate order would pass for a lost database.
    "exit_on_error": "off",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "jit": "off",
}

DEFAULTS = {
    "application_name": "aiopypay",
    # Explicit, because `prefer` changes sockets; an operator who wants TLS says sslmode=require or better.
    "sslmode": "disable",
    "gssencmode": "disable",
    "tcp_user_timeout": "3000",
    "keepalives_idle": "1",
    "keepalives_interval": "1",
    "keepalives_count": "2",
}


async def single_address_dsns(database_url: str) -> list[str]:
    """Returns one connection string for each address of each host in the URL, in order.

    Raises OSError when no host has an address.
    """
    parameters = {**DEFAULTS, **parse_dsn(database_url)}
    # Where addresses are given, there is nothing to resolve; the host's name then serves TLS alone.
    named = parameters.pop("host", None)
    hosts = (parameters.pop("hostaddr", None) or named or "127.0.0.1").split(",")
    ports = parameters.pop("port", "5432").split(",")
    parameters |= session_parameters(parameters)
    if len(hosts) > 1:
        parameters.setdefault("target_session_attrs", "read-write")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    dsns: list[str] = []
    failure: OSError | None = None
    for host, port in zip(hosts, ports, strict=True):
        try:
            dsns += [make_dsn(**parameters, **address) for address in await _addresses(host, port)]
        except OSError as error:
            failure = error
    if not dsns and failure:
        raise failure
    return dsns


async def _addresses(host: str, port: str) -> list[dict[str, str]]:
    if host.startswith("/"):
        return [{"host": host, "port": port}]
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    numeric = dict.fromkeys(str(info[4][0]) for info in found)
    # IPv4 first: servers that listen on both are reached either way, and many listen on IPv4 alone.
    return [
        {"host": host, "hostaddr": address, "port": port} for address in sorted(numeric, key=lambda text: ":" in text)
    ]


def session_parameters(given: Mapping[str, str], **instead: str) -> dict[str, str]:
    """Returns the parameters of a connection string that pin SESSION_SETTINGS, some of them to other values `instead`.

    They ride in `options` for free, behind those of the operator: the last one counts.
    """
    pinned = {**SESSION_SETTINGS, **instead}
    ours = " ".join(f"-c {name}={_escaped(value)}" for name, value in pinned.items())
    # Told to libpq by name, too, whose functions quote by it.
    return {"options": f"{given.get('options', '')} {ours}".strip(), "client_encoding": pinned["client_encoding"]}


def _escaped(value: str) -> str:
    return value.replace(" ", "\\ ")
