"""Whom a request comes from. What a header says of it is believed only from the configured proxies.

Only X-Forwarded-For is read, never Forwarded (RFC 7239): a proxy appends to one of them and passes the other on as the
client wrote it, so that whoever reads both believes the client.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from aiohttp import web

from aiopypay.settings import Network

HEADER = "X-Forwarded-For"
# What only proxies send.
PROXY_HEADERS = (HEADER, "Forwarded", "X-Real-IP")
# What a provider gives to one customer.
IPV6_PREFIX = 64
# Whoever a trusted proxy has no readable address for. They are one crowd, but not the proxy's own.
UNKNOWN = "unknown"
# A list that is longer comes from somebody who plays with it; it is read, and not remembered.
REMEMBERED_LENGTH_MAX = 256

logger = logging.getLogger(__name__)

_told: set[str] = set()


def client_address(request: web.BaseRequest, trusted: Sequence[Network]) -> str:
    """Returns the address of the client: the nearest one that is not a trusted proxy; `unknown` where it is unreadable.

    Each proxy appends the address that it was spoken to from, so the list is read from its end.
    """
    return _addresses(request, trusted)[0]


def throttled_address(request: web.BaseRequest, trusted: Sequence[Network]) -> str:
    """Returns what the client is counted under: the address, of IPv6 the network that one customer has."""
    return _addresses(request, trusted)[1]


@lru_cache(1024)
def network_of(text: str) -> str:
    """Returns what an address is counted under: itself, of IPv6 the network that one customer has."""
    return _counted_under(_parsed(text))


@lru_cache(1024)
def is_within(text: str, networks: tuple[Network, ...]) -> bool:
    """Tells whether an address is in one of the networks."""
    address = _parsed(text)
    return address is not None and any(address in network for network in networks)


def _addresses(request: web.BaseRequest, trusted: Sequence[Network]) -> tuple[str, str]:
    remote = request.remote or ""
    if not is_within(remote, tuple(trusted)):
        if any(name in request.headers for name in PROXY_HEADERS):
            _tell_once(
                "%s forwards requests of others (or a client plays that), and APP_TRUSTED_PROXIES does not name it: "
                "all who come through it are throttled as one address.",
                remote,
            )
        return _read(remote, "", ())
    forwarded = ",".join(request.headers.getall(HEADER, ()))
    read = _read if len(forwarded) <= REMEMBERED_LENGTH_MAX else _read.__wrapped__
    return read(remote, forwarded, tuple(trusted))


@lru_cache(1024)
def _read(remote: str, forwarded: str, trusted: tuple[Network, ...]) -> tuple[str, str]:
    """Returns the client's address, and what it is counted under."""
    nearest = _parsed(remote)
    further = [item for item in (item.strip() for item in forwarded.split(",")) if item]
    while nearest is not None and further and any(nearest in network for network in trusted):
        item = further.pop()
        nearest = _parsed(item)
        if nearest is None:
            _tell_once("%s: %.100r from a trusted proxy is no address: its clients are throttled as one.", HEADER, item)
    return UNKNOWN if nearest is None else str(nearest), _counted_under(nearest)


def _counted_under(address: IPv4Address | IPv6Address | None) -> str:
    if isinstance(address, IPv6Address):
        return str(ip_network((address, IPV6_PREFIX), strict=False))
    return UNKNOWN if address is None else str(address)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Reads an address with or without a port, brackets, quotes and a zone; None for anything else."""
    text = text.strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _tell_once(message: str, *arguments: object) -> None:
    """Once a process: the client can send it as often as it likes."""
    if message not in _told:
        _told.add(message)
        logger.warning(message, *arguments)
