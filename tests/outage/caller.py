"""One user who sends requests one by one, and reads their answers whole."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import aiohttp

from .load import Person

SECONDS = 10


@dataclass(frozen=True)
class Told:
    """An answer: status, headers, and the JSON of its body."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def problem(self) -> str:
        """The kind of problem, the last part of its type."""
        return str(self.body.get("type", "")).removeprefix("/problems/")


async def call(
    base_url: str,
    method: str,
    path: str,
    headers: Mapping[str, str],
    data: Mapping[str, str] | bytes | AsyncIterator[bytes] | None = None,
) -> Told:
    """Sends one request."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session:
        async with session.request(method, base_url + path, headers=headers, data=data) as response:
            body = json.loads(await response.text(), parse_float=Decimal)
            return Told(response.status, dict(response.headers), body)


async def pay(
    base_url: str, payer: Person, from_account_id: int, to_account_id: int, amount: str, key: str | None = None
) -> Told:
    """Pays."""
    return await call(
        base_url,
        "POST",
        f"/users/{payer.id}/transfers",
        payer.headers | ({"Idempotency-Key": key} if key else {}),
        {"from": str(from_account_id), "to": str(to_account_id), "amount": amount},
    )


async def send_bulk(base_url: str, payer: Person, mode: str, transfers: Sequence[Any], key: str | None = None) -> Told:
    """Pays many times."""
    headers = payer.headers | {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
    body = json.dumps({"mode": mode, "transfers": list(transfers)}).encode()
    return await call(base_url, "POST", f"/users/{payer.id}/transfers/bulk", headers, body)


async def order(base_url: str, person: Person, order_id: str) -> Told:
    """Asks for an order."""
    return await call(base_url, "GET", f"/users/{person.id}/orders/{order_id}", person.headers)


async def balance(base_url: str, person: Person, account_id: int) -> Decimal:
    """Asks for the balance of an account."""
    told = await call(base_url, "GET", f"/accounts/{account_id}", person.headers)
    assert told.status == 200, told
    # A balance without decimals would be an int.
    return Decimal(told.body["amount"])


def account_in(person: Person, currency_id: str) -> int:
    """The person's first account in this currency."""
    return next(account_id for account_id, currency in person.accounts.items() if currency == currency_id)
