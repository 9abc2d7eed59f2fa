"""Turns a database URL into libpq connection strings that asyncio can use: one address each, nothing left to guess.

Asynchronous libpq resolves names by blocking, and where it moves on to a second address (several hosts, `localhost`
as ::1 and 127.0.0.1, `sslmode=prefer`) the socket changes under the event loop. So names are resolved here, and
each address becomes a connection string of its own.
"""

import asyncio
import socket
from collections.abc import Mapping

from psycopg2.extensions import make_dsn, parse_dsn

# Server settings ride in the connection string for free. The limits are below the client's own deadline
# (`database.DEADLINE_SECONDS`), so that a live server speaks first.
STATEMENT_MILLISECONDS = 1_200
SESSION_SETTINGS = {
    "statement_timeout": f"{STATEMENT_MILLISECONDS}ms",
    "lock_timeout": "400ms",
    "idle_in_transaction_session_timeout": "3s",
    "synchronous_commit": "on",
    "default_transaction_isolation": "read\\ committed",
    "timezone": "UTC",
    "jit": "off",
    # What these sessions change is not logged for the nodes (migrations/0006_change_log.sql).
    "aiopypay.node": "yes",
}

DEFAULTS = {
    "application_name": "aiopypay",
    # Explicit, because `prefer` changes sockets; an operator who wants TLS says sslmode=require or better.
    "sslmode": "disable",
    "gssencmode": "disable",
    "client_encoding": "UTF8",
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
    parameters["options"] = _options(parameters)
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


def _options(parameters: Mapping[str, str]) -> str:
    settings = " ".join(f"-c {name}={value}" for name, value in SESSION_SETTINGS.items())
    return f"{parameters.get('options', '')} {settings}".strip()
