"""What the tests speak HTTP with: answers that are read whole, callers that know their own ids, problems checked."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import uuid4

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy

PASSWORD = "correct horse"


def basic(username: str, password: str) -> str:
    """Returns the value of an Authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read whole."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8")

    @property
    def media_type(self) -> str:
        """The Content-Type without its parameters."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip()

    def json(self) -> Any:
        """Returns the body's document; numbers with a point are exact decimals, decimals and all."""
        return json.loads(self.body, parse_float=Decimal)

    def ok(self, status: int = 200) -> Any:
        """Asserts success and returns the document."""
        assert self.status == status, f"{self.status}: {self.text}"
        assert self.headers["Content-Type"] == "application/json; charset=utf-8"
        self.has_common_headers()
        return self.json()

    def problem(self, status: int, slug: str | None = None, *, field: str | None = None) -> dict[str, Any]:
        """Asserts that this is a whole problem of RFC 9457, as the contract has it, and returns it."""
        assert self.status == status, f"{self.status}: {self.text}"
        assert self.media_type == "application/problem+json"
        document: dict[str, Any] = self.json()
        assert document["status"] == status
        assert document["type"].startswith("/problems/")
        assert document["title"]
        assert document["detail"]
        self.has_common_headers()
        assert document["instance"] == self.headers["X-Request-ID"]
        if slug is not None:
            assert document["type"] == f"/problems/{slug}"
        if field is not None:
            assert document.get("field") == field, document
            assert field in document["detail"], document
        if status == 401:
            assert self.headers["WWW-Authenticate"] == 'Basic realm="aiopypay", charset="UTF-8"'
        if status in (429, 503):
            assert int(self.headers["Retry-After"]) >= 1
        return document

    def has_common_headers(self) -> None:
        """Asserts what every response carries."""
        assert self.headers["X-Request-ID"]
        assert self.headers["Cache-Control"] == "no-store"
        assert self.headers["X-Content-Type-Options"] == "nosniff"


class Service:
    """One running instance of the service, seen from outside."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, database_url: str) -> None:
        self.session = session
        self.base_url = base_url.rstrip("/")
        self.database_url = database_url

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | CIMultiDict[str] | None = None,
        authorization: str | None = None,
        form: Mapping[str, Any] | None = None,
        document: Any = None,
        body: bytes | Any | None = None,
        key: str | None = None,
    ) -> Answer:
        """Sends a request: a `form`, a JSON `document`, or a raw `body`."""
        sent: CIMultiDict[str] = CIMultiDict(headers or {})
        if authorization is not None:
            sent["Authorization"] = authorization
        if key is not None:
            sent["Idempotency-Key"] = key
        payload: Any = body
        if form is not None:
            payload = aiohttp.FormData({name: str(value) for name, value in form.items()})
        elif document is not None:
            payload = json.dumps(document).encode()
            sent.setdefault("Content-Type", "application/json")
        url = path if path.startswith("http") else self.base_url + path
        async with self.session.request(
            method, url, headers=sent, data=payload, skip_auto_headers=() if form else ("Content-Type",)
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **options: Any) -> Answer:
        """Sends a GET."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Answer:
        """Sends a POST."""
        return await self.request("POST", path, **options)

    async def register(
        self, username: str | None = None, password: str = PASSWORD, full_name: str | None = None
    ) -> "Caller":
        """Registers a user and returns them with their accounts."""
        username = username or f"user-{uuid4().hex[:12]}"
        form = {"username": username, "password": password}
        if full_name is not None:
            form["full_name"] = full_name
        user = (await self.post("/users", form=form)).ok(201)
        caller = Caller(self, user["id"], username, password, {})
        accounts = await caller.list_accounts()
        return Caller(self, user["id"], username, password, {row["currency_id"]: row["id"] for row in accounts})

    async def superuser(self, password: str) -> "Caller":
        """Returns the superuser with their accounts."""
        caller = Caller(self, 1, "superuser", password, {})
        accounts = await caller.list_accounts()
        return Caller(self, 1, "superuser", password, {row["currency_id"]: row["id"] for row in accounts})


@dataclass(frozen=True, slots=True)
class Caller:
    """A registered user who sends requests to one service. `accounts`: the first account in each currency."""

    service: Service
    id: int
    username: str
    password: str
    accounts: Mapping[str, int]

    @property
    def authorization(self) -> str:
        """The value of the user's Authorization header."""
        return basic(self.username, self.password)

    def at(self, service: Service) -> "Caller":
        """Returns the same user, who speaks to another instance."""
        return Caller(service, self.id, self.username, self.password, self.accounts)

    async def get(self, path: str, **options: Any) -> Answer:
        """Sends a GET under the user's name."""
        return await self.service.get(path, authorization=self.authorization, **options)

    async def post(self, path: str, **options: Any) -> Answer:
        """Sends a POST under the user's name."""
        return await self.service.post(path, authorization=self.authorization, **options)

    async def patch(self, path: str, **options: Any) -> Answer:
        """Sends a PATCH under the user's name."""
        return await self.service.request("PATCH", path, authorization=self.authorization, **options)

    async def delete(self, path: str, **options: Any) -> Answer:
        """Sends a DELETE under the user's name."""
        return await self.service.request("DELETE", path, authorization=self.authorization, **options)

    async def token(self) -> str:
        """Returns the value of an Authorization header with a new bearer token."""
        form = {"username": self.username, "password": self.password}
        return "Bearer " + str((await self.service.post("/api/auth/token", form=form)).ok()["access_token"])

    async def list_accounts(self) -> list[dict[str, Any]]:
        """Returns the user's accounts as the service lists them."""
        accounts: list[dict[str, Any]] = (await self.get(f"/users/{self.id}/accounts")).ok()
        return accounts

    async def open_account(self, currency_id: str, *, key: str | None = None) -> int:
        """Opens another account and returns its id."""
        return int((await self.post(f"/users/{self.id}/accounts/{currency_id}", key=key)).ok()["id"])

    async def transfer(
        self, source: Any, target: Any, amount: Any, comment: str | None = None, *, key: str | None = None
    ) -> Answer:
        """Asks for a transfer between two account ids."""
        form = {"from": source, "to": target, "amount": amount}
        if comment is not None:
            form["comment"] = comment
        return await self.post(f"/users/{self.id}/transfers", form=form, key=key)

    async def pay(self, other: "Caller", amount: Any, currency_id: str = "USD", **options: Any) -> Answer:
        """Asks for a payment to another user's first account in the currency."""
        return await self.transfer(self.accounts[currency_id], other.accounts[currency_id], amount, **options)

    async def history(self, **query: Any) -> Answer:
        """Asks for the user's transfers."""
        text = "&".join(f"{name.rstrip('_')}={value}" for name, value in query.items())
        return await self.get(f"/users/{self.id}/transfers" + (f"?{text}" if text else ""))

    async def balance(self, currency_id: str = "USD") -> Decimal:
        """Returns the balance of the first account in the currency, as the service tells it."""
        amount: Decimal = (await self.get(f"/accounts/{self.accounts[currency_id]}")).ok()["amount"]
        return amount
