"""Which host a request was sent to. What headers of a proxy say of it is believed only from the configured proxies."""

import re
from collections.abc import Sequence
from typing import Literal

from aiohttp import web

from aiopypay.client_address import is_within
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
    """What a trusted proxy says, by X-Forwarded-Host or -Proto; `client_address` says why Forwarded is not read."""
    if not trusted or not is_within(request.remote or "", tuple(trusted)):
        return None
    values = request.headers.getall(f"X-Forwarded-{name}", [])
    return values[-1].rpartition(",")[2].strip() if values else None
