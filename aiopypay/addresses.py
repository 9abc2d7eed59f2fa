"""Turns a database URL into libpq connection strings that asyncio can use: one address each, nothing left to guess.

Asynchronous libpq resolves names by blocking, and where it moves on to a second address (several hosts, `localhost`
as ::1 and 127.0.0.1, `sslmode=prefer`) the socket changes under the event loop. So names are resolved here, and
each address becomes a connection string of its own.
"""

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

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
    # What these sessions change is not logged for the nodes (migrations/0007_change_log.sql).
    "aiopypay.node": "yes",
}

DEFAULT_PORT = "5432"
# Of the second that connecting may take: a name server that hangs does not hide the hosts that are known.
RESOLVE_SECONDS = 0.4

PROVEN = "scram-sha-256"
NOTHING_TOLD = "!password,!md5"

PLACE = ("host", "hostaddr", "port")

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

    Where there are several, each demands a session that can write, unless the URL says otherwise: any of them may be a
    standby. A name that is not resolved in time is passed over. Raises OSError when no host has an address.
    """
    url = _Url(database_url)
    # One name alone has all the time that the caller has.
    seconds = RESOLVE_SECONDS if len(url.hosts) > 1 else None
    return url.dsns(await asyncio.gather(*(_resolved(host, seconds) for host in url.hosts), return_exceptions=True))


def blocking_dsns(database_url: str, settings: Mapping[str, str]) -> list[str]:
    """Returns the same for sessions that have these settings, too. Blocks while names are resolved."""
    url = _Url(database_url, **settings)
    found: list[Any] = []
    for host in url.hosts:
        try:
            found.append(
                None if host.is_resolved else socket.getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)
            )
        except OSError as error:
            found.append(error)
    return url.dsns(found)


def at_server(url: str, database_url: str, server: str | None) -> str:
    """Returns `url`, of another role, for this very `server` (a connection string made of `database_url`).

    Where `url` names other hosts than `database_url`, it is returned as it is: it leads past a pooler, say.
    """
    given, usual = parse_dsn(url), parse_dsn(database_url)
    if server is None or any(given.get(name) != usual.get(name) for name in PLACE):
        return url
    there = {name: value for name, value in parse_dsn(server).items() if name in PLACE}
    return str(make_dsn(**{**given, **there}))


def host_count(database_url: str) -> int:
    """Returns how many hosts the URL names."""
    return len(_Url(database_url).hosts)


@dataclass(frozen=True, slots=True)
class _Host:
    """`address` None: it is still to be found out."""

    name: str
    address: str | None
    port: str

    @property
    def is_resolved(self) -> bool:
        return self.address is not None or self.name.startswith("/")


class _Url:
    """A database URL taken apart: the hosts that it names, and what is the same for all of them."""

    def __init__(self, database_url: str, **instead: str) -> None:
        given = parse_dsn(database_url)
        self._parameters = {**DEFAULTS, **authentication(given), **given}
        self._parameters |= session_parameters(self._parameters, **instead)
        names, addresses, ports = (self._parameters.pop(name, "") for name in ("host", "hostaddr", "port"))
        # Where addresses are given, there is nothing to resolve; the host's name then serves TLS alone.
        named = (names or addresses or "127.0.0.1").split(",")
        numeric = addresses.split(",") if addresses else [None] * len(named)
        ports_of = ports.split(",") * (1 if "," in ports else len(named))
        self.hosts = [
            _Host(name, address or _numeric(name), port or DEFAULT_PORT)
            for name, address, port in zip(named, numeric, ports_of, strict=True)
        ]

    def dsns(self, found: Sequence[Any]) -> list[str]:
        """Returns the connection strings, given what getaddrinfo says of each host. Raises OSError."""
        failures = [outcome for outcome in found if isinstance(outcome, BaseException)]
        addresses = [
            address
            for host, outcome in zip(self.hosts, found, strict=True)
            if not isinstance(outcome, BaseException)
            for address in _addresses(host, outcome)
        ]
        if not addresses:
            raise failures[-1]
        if len(addresses) > 1:
            self._parameters.setdefault("target_session_attrs", "read-write")
        return [make_dsn(**self._parameters, **address) for address in addresses]


def authentication(given: Mapping[str, str]) -> dict[str, str]:
    """Returns what the server must do to be believed, unless the URL or the environment says it itself.

    libpq sends a password in clear, or its MD5, to whoever asks for it so; with SCRAM both sides prove that they know
    it, and neither tells it. A password that libpq finds elsewhere (`.pgpass`, a service file) is not told, either.
    With `sslmode=verify-full` the certificate proves the server, so that it may ask as it likes (LDAP, PAM).
    """
    if "PGREQUIREAUTH" in os.environ or given.get("sslmode") == "verify-full":
        return {}
    has_password = "password" in given or "PGPASSWORD" in os.environ
    return {"require_auth": PROVEN if has_password else NOTHING_TOLD}


def _numeric(name: str) -> str | None:
    """Returns the name where it is an address: nobody needs to be asked for it."""
    try:
        return str(ip_address(name))
    except ValueError:
        return None


async def _resolved(host: _Host, seconds: float | None) -> Any:
    if host.is_resolved:
        return None
    async with asyncio.timeout(seconds):
        return await asyncio.get_running_loop().getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)


def _addresses(host: _Host, found: Any) -> list[dict[str, str]]:
    where = {"host": host.name, "port": host.port}
    if host.address is not None:
        return [{**where, "hostaddr": host.address}]
    if found is None:
        return [where]
    numeric = dict.fromkeys(str(info[4][0]) for info in found)
    # IPv4 first: servers that listen on both are reached either way, and many listen on IPv4 alone.
    return [{**where, "hostaddr": address} for address in sorted(numeric, key=lambda text: ":" in text)]


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
