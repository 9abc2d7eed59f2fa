"""Pages of lists: an answer stays bounded however long the list is, and its `Link` header leads to the next."""

from collections.abc import Hashable
from typing import Any, cast
from urllib.parse import urlencode

from aiohttp import web

from aiopypay.asked_host import absolute_url
from aiopypay.forms import fields_of
from aiopypay.handlers import SETTINGS


def next_page(request: web.Request, following: Any) -> dict[str, str]:
    """Returns the `Link` header (RFC 8288) to the next page; `following` is the form of its query."""
    parameters = {
        name: getattr(following, field.name) for name, field in fields_of(cast(Hashable, type(following))).items()
    }
    text = urlencode({name: _text(value) for name, value in parameters.items() if value is not None})
    url = absolute_url(request, f"{request.path}?{text}", request.app[SETTINGS].trusted_proxies)
    return {"Link": f'<{url}>; rel="next"'}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
