"""A small load generator: keep-alive connections that send transfers as fast as they are answered."""

import asyncio
import base64
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlencode


@dataclass(frozen=True)
class Payer:
    """A user, their credentials, and the account they pay from."""

    user_id: int
    username: str
    password: str
    account_id: int


@dataclass
class Measured:
    """What a stretch of load was answered: how often each status, and each latency in seconds."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    def rate(self, status: int) -> float:
        """Answers of this status per second."""
        return self.statuses[status] / self.seconds

    def percentile(self, share: float) -> float:
        """The latency in milliseconds that this share of the requests stays below."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def pay(port: int, payers: list[Payer], connections: int, seconds: float, seed: int) -> Measured:
    """Sends transfers of 0.01 between random payers over `connections` connections for `seconds`."""
    measured = Measured()
    started = time.perf_counter()
    clients = (
        _client(port, payers, random.Random(f"{seed}-{n}"), started + seconds, measured) for n in range(connections)
    )
    await asyncio.gather(*clients)
    measured.seconds = time.perf_counter() - started
    return measured


async def _client(port: int, payers: list[Payer], draw: random.Random, until: float, measured: Measured) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (begun := time.perf_counter()) < until:
        payer, payee = draw.sample(payers, 2)
        writer.write(_request(payer, payee))
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        measured.statuses[int(head[9:12])] += 1
        measured.latencies.append(time.perf_counter() - begun)
    writer.close()


def _request(payer: Payer, payee: Payer) -> bytes:
    body = urlencode({"from": payer.account_id, "to": payee.account_id, "amount": "0.01"})
    credentials = base64.b64encode(f"{payer.username}:{payer.password}".encode()).decode()
    return (
        f"POST /users/{payer.user_id}/transfers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {credentials}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
