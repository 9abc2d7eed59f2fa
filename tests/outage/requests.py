"""One request of a client whose answer is remembered."""

import json
import time
from decimal import Decimal
from typing import Any

import aiohttp

from .payments import Answer, next_event
from .waiting import Stopwatch

ATTEMPT_SECONDS = 8


def client() -> aiohttp.ClientSession:
    """A client that opens as many connections as there are requests at once."""
    timeout = aiohttp.ClientTimeout(total=ATTEMPT_SECONDS)
    return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))


async def ask(session: aiohttp.ClientSession, method: str, **request: Any) -> tuple[Answer, str]:
    """Sends a request; returns the answer, and the Location that it names."""
    started, watch = next_event(), Stopwatch()
    status, body, lost, location = None, None, "", ""
    try:
        async with session.request(method, **request) as response:
            body = json.loads(await response.text(), parse_float=Decimal)
            status, location = response.status, response.headers.get("Location", "")
    except TimeoutError:
        lost = "timeout"
    except (aiohttp.ClientError, OSError):
        lost = "lost"
    answer = Answer(started, next_event(), status, body, lost, watch.seconds, time.monotonic())
    return answer, location
