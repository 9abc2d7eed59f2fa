"""Which host a request was sent to. What headers of a proxy say of it is believed only from the configured proxies."""

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Literal

from aiohttp import web

from aiopypay.settings import Network

_HOST = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def asked_host(request: web.BaseRequest, trusted: Sequence[Network]) -> str | None:
    """Returns host and port as the client sent them, such as `127.0.0.1:8080`; None where they are no host's name.

    Behind a trusted proxy they are the forwarded ones. Of several the last count: what the nearest proxy was asked for.
    """
    host = _forwarded(request, "host", trusted) or request.host
    return host if _HOST.fullmatch(host) else None


def absolute_url(request: web.BaseRequest, path: str, trusted: Sequence[Network]) -> str:
    """Returns the URL of a path (and query) of this service as the client would ask for it.

    It stays a path where the client has named no host.
    """
    host = asked_host(request, trusted)
    if host is None:
        return path
    scheme = _forwarded(request, "proto", trusted)
    return f"{scheme if scheme in ('http', 'https') else request.scheme}://{host}{path}"


def _forwarded(request: web.BaseRequest, name: Literal["host", "proto"], trusted: Sequence[Network]) -> str | None:
    """What a trusted proxy says, by X-Forwarded-Host and -Proto, which most set, or by Forwarded (RFC 7239)."""
    if not trusted or not _is_from(request.remote, trusted):
        return None
    values = request.headers.getall(f"X-Forwarded-{name}", [])
    if values:
        return values[-1].rpartition(",")[2].strip()
    return request.forwarded[-1].get(name) if request.forwarded else None


def _is_from(remote: str | None, trusted: Sequence[Network]) -> bool:
    try:
        address = ip_address((remote or "").partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in trusted)
