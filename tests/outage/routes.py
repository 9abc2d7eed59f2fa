"""One request to each route, for the tests that look at answers while the database is away."""

import uuid
from dataclasses import dataclass, field

import aiohttp

from .load import Person
from .waiting import Stopwatch

CLIENT_SECONDS = 10
UNKNOWN_ORDER = "00000000-0000-4000-8000-00000000dead"


@dataclass(frozen=True)
class Request:
    """A request that is valid, so that nothing but the database can be in its way."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] | None = None


@dataclass(frozen=True)
class Response:
    """What it was answered, and after how many seconds."""

    request: Request
    status: int
    headers: dict[str, str]
    body: str
    seconds: float


def reads(person: Person) -> list[Request]:
    """Each route that reads from the database."""
    account_id = next(iter(person.accounts))
    paths = [
        "/currencies",
        f"/users/{person.id}/accounts",
        f"/accounts/{account_id}",
        f"/users/{person.id}/transfers",
    ]
    return [Request("GET", path, person.headers) for path in paths]


def unknown_order(person: Person) -> Request:
    """Asks for an order that nobody placed."""
    return Request("GET", f"/users/{person.id}/orders/{UNKNOWN_ORDER}", person.headers)


def payment(person: Person) -> Request:
    """A payment of 0.01 between accounts of one user, with a key of its own."""
    payer, payee = [account_id for account_id, currency in person.accounts.items() if currency == "USD"]
    return Request(
        "POST",
        f"/users/{person.id}/transfers",
        person.headers | {"Idempotency-Key": str(uuid.uuid4())},
        {"from": str(payer), "to": str(payee), "amount": "0.01"},
    )


def other_writes(person: Person) -> list[Request]:
    """Each route that writes to the database, but for payments."""
    return [
        Request("POST", f"/users/{person.id}/accounts/USD", person.headers),
        Request("POST", "/users", {}, {"username": uuid.uuid4().hex, "password": "password of theirs"}),
    ]


def databaseless() -> list[Request]:
    """Each route that answers without a database."""
    return [Request("GET", "/health"), Request("GET", "/metrics")]


async def send(session: aiohttp.ClientSession, base_url: str, request: Request) -> Response:
    """Sends it and waits for the answer."""
    watch = Stopwatch()
    async with session.request(
        request.method, base_url + request.path, headers=request.headers, data=request.data
    ) as response:
        body = await response.text()
        return Response(request, response.status, dict(response.headers), body, watch.seconds)


def client() -> aiohttp.ClientSession:
    """A client that opens as many connections as there are requests at once."""
    timeout = aiohttp.ClientTimeout(total=CLIENT_SECONDS)
    return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
