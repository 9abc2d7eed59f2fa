"""Clients that take connections and keep them: they send nothing, too much, too slowly, or do not read the answer.

Each attack has so many connections, from addresses of this machine (127.1.x.y), and opens another for each that ends.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable

BEGINNING = b"GET /openapi.json HTTP/1.1\r\nHost: shop\r\n"
WHOLE = BEGINNING + b"\r\n"
PAGE = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: shop\r\n\r\n"
BODY = b"POST /users HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n"
CHUNKED = b"POST /users HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
BIG_HEADERS = 120
BIG_HEADER_BYTES = 15_000
PAUSE_SECONDS = 2

Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def says_nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Half-open: connected, and that is all."""
    await reader.read()


async def never_ends_its_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """120 headers of 15 KB, and not the empty line behind them."""
    writer.write(BEGINNING)
    for number in range(BIG_HEADERS):
        writer.write(b"X-%d: " % number + b"x" * BIG_HEADER_BYTES + b"\r\n")
        await writer.drain()
    await reader.read()


async def trickles_its_head(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A byte a second."""
    for byte in itertools.chain(BEGINNING, b"X: ", itertools.repeat(ord("x"))):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(1)


async def trickles_its_body(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The same in chunks."""
    writer.write(CHUNKED)
    while True:
        writer.write(b"1\r\n \r\n")
        await writer.drain()
        await asyncio.sleep(1)


async def never_reads(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Asks for a large page, and for more of them, and reads none."""
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(PAGE * 3)
    await writer.wait_closed()


async def pipelines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends large requests behind one that takes its time, and never reads."""
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(BODY)
    large = BEGINNING + b"X: " + b"x" * 15_000 + b"\r\nY: " + b"x" * 15_000 + b"\r\n\r\n"
    writer.write(b" " * 9000 + large * 100)
    await writer.drain()
    await reader.read()


async def hold_on(port: int, client: str, addresses: int, connections: int) -> None:
    """So many connections from so many addresses, all of the client of that name; never returns."""
    behave: Client = globals()[client]
    network = sorted(name for name, one in globals().items() if asyncio.iscoroutinefunction(one)).index(client) + 1
    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            source = f"127.{network}.0.{number % addresses + 2}"
            group.create_task(_again_and_again(port, source, behave))
            if number % 50 == 0:
                await asyncio.sleep(0.02)


async def _again_and_again(port: int, source: str, behave: Client) -> None:
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
            try:
                await behave(reader, writer)
            finally:
                writer.transport.abort()
        await asyncio.sleep(PAUSE_SECONDS)
