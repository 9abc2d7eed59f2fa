"""What a client would rather have: the header Prefer (RFC 7240)."""

from urllib.request import parse_http_list

from aiohttp import web


def prefers(request: web.BaseRequest, name: str, value: str) -> bool:
    """Tells whether the client prefers `name=value`. Of a preference that is sent several times the first counts."""
    for item in parse_http_list(",".join(request.headers.getall("Prefer", ()))):
        # Parameters of the preference, behind a semicolon, mean nothing here.
        preference, equals, preferred = item.partition(";")[0].partition("=")
        if preference.strip().lower() == name:
            return bool(equals) and preferred.strip().strip('"') == value
    return False
