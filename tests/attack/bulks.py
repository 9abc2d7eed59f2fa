"""An attack: one user's bulks, on many connections, each as soon as the one before it is answered."""

import asyncio
import contextlib
import json
from collections.abc import Mapping

import aiohttp

from tests.outage.payments import Person

ITEMS = 1000


async def send_bulks(base_url: str, crowd: Person, mode: str, connections: int) -> None:
    """Pays to and fro between two accounts of one user, without end: no commission, and always covered."""
    one, other = [account_id for account_id, currency in crowd.accounts.items() if currency == "USD"]
    transfers = [{"from": one, "to": other, "amount": "0.01"}, {"from": other, "to": one, "amount": "0.01"}]
    body = json.dumps({"mode": mode, "transfers": transfers * (ITEMS // 2)}).encode()
    url = f"{base_url}/users/{crowd.id}/transfers/bulk"
    headers = {**crowd.headers, "Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(_send(session, url, headers, body) for _ in range(connections)))


async def _send(session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], body: bytes) -> None:
    while True:
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            async with session.post(url, data=body, headers=headers) as response:
                await response.read()
