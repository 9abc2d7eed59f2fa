"""Whom a request comes from. What a header says of it is believed only from the configured proxies."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from aiohttp import web

from aiopypay.settings import Network

HEADER = "X-Forwarded-For"
# What a provider gives to one customer.
IPV6_PREFIX = 64


def client_address(request: web.BaseRequest, trusted: Sequence[Network]) -> str:
    """Returns the address of the client: the nearest one that is not a trusted proxy.

    Each proxy appends the address that it was spoken to from, so the list is read from its end. What is no address
    ends it: then the proxy is taken for the client.
    """
    nearest = _parsed(request.remote or "")
    forwarded = ",".join(request.headers.getall(HEADER, [])).split(",")
    while nearest is not None and forwarded and any(nearest in network for network in trusted):
        further = _parsed(forwarded.pop().strip())
        if further is None:
            break
        nearest = further
    return "unknown" if nearest is None else str(nearest)


def throttled_address(request: web.BaseRequest, trusted: Sequence[Network]) -> str:
    """Returns what the client is counted under: the address, of IPv6 the network that one customer has."""
    return network_of(client_address(request, trusted))


def network_of(text: str) -> str:
    """Returns what an address is counted under: itself, of IPv6 the network that one customer has."""
    address = _parsed(text)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, IPV6_PREFIX), strict=False))
    return text if address is None else str(address)


def is_within(text: str, networks: Sequence[Network]) -> bool:
    """Tells whether an address is in one of the networks."""
    address = _parsed(text)
    return address is not None and any(address in network for network in networks)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
