"""What a connection may bring, and for how long it may keep the service waiting."""

import asyncio
import contextlib
import errno
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import ip_network
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aiopypay import connections, http_protocol, listener
from aiopypay.http_protocol import HEAD_BYTES_MAX, PIECE_BYTES
from aiopypay.listener import Listener
from aiopypay.settings import Settings
from tests.api import raw
from tests.client import Service
from tests.conftest import StartService

SOON = 10
REQUEST = raw.head("GET", "/health").replace(b"close", b"keep-alive")
BODY = raw.head("POST", "/users", Content_Type="application/json", Content_Length="100")


def head_of(size: int) -> bytes:
    """A request's head of so many bytes, in headers of at most 15 KB."""
    lines, rest = [REQUEST[:-2]], size - len(REQUEST)
    while rest:
        length = rest if rest <= 15_000 else min(15_000, rest - 100)
        lines.append(b"X-Long: ".ljust(length - 2, b"x") + b"\r\n")
        rest -= length
    return b"".join(lines) + b"\r\n"


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def connect(service: Service) -> AsyncIterator[Callable[..., "asyncio.Task[Streams]"]]:
    """Opens connections to the service, which are closed after the test."""
    address = urlsplit(service.base_url)
    opened: list[asyncio.StreamWriter] = []

    async def open_one(source: str = "127.0.0.1") -> Streams:
        reader, writer = await asyncio.open_connection(address.hostname, address.port, local_addr=(source, 0))
        opened.append(writer)
        return reader, writer

    yield lambda source="127.0.0.1": asyncio.create_task(open_one(source))
    for writer in opened:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that waits for its clients for half a second, and looks at them often."""
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(http_protocol, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr("aiopypay.forms.BODY_SECONDS", 0.5)


async def ended(service: Service, why: str) -> float:
    """How many connections the service has ended for this reason."""
    text = (await service.get("/metrics")).text
    return next(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "aiopypay_connections_ended_total" and sample.labels["why"] == why
    )


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Waits for the end of a connection over which nothing more comes."""
    async with asyncio.timeout(SOON):
        try:
            return await reader.read() == b""
        except ConnectionError:
            return True


class TestHead:
    @pytest.mark.parametrize("size", [HEAD_BYTES_MAX, 2 * PIECE_BYTES, 1000])
    @pytest.mark.parametrize("part", [100_000, 3_000])
    async def test_one_that_is_not_too_long_is_taken(self, shared_service: Service, size: int, part: int) -> None:
        head = head_of(size)
        assert len(head) == size
        parts = [head[start : start + part] for start in range(0, size, part)]
        assert (await raw.exchange(shared_service, *parts)).status == 200

    @pytest.mark.parametrize("size", [HEAD_BYTES_MAX + 2 * PIECE_BYTES, 10 * HEAD_BYTES_MAX])
    async def test_one_that_is_too_long_as_a_whole_is_431(
        self, service: Service, connect: Callable[..., "asyncio.Task[Streams]"], size: int
    ) -> None:
        reader, writer = await connect()
        writer.write(head_of(size)[: HEAD_BYTES_MAX + 2 * PIECE_BYTES])
        answer = await raw.read_answer(reader)
        answer.problem(431, "head-too-large")
        answer.has_common_headers()
        assert answer.headers["Connection"] == "close"
        assert await is_closed(reader)
        assert await ended(service, "head_bytes") == 1

    async def test_one_header_that_is_too_long_is_431(self, shared_service: Service) -> None:
        answer = await raw.exchange(shared_service, REQUEST[:-2] + b"X: ".ljust(20_000, b"x") + b"\r\n\r\n")
        answer.problem(431, "head-too-large")

    async def test_many_requests_at_once_are_many_heads(self, connect: Callable[..., "asyncio.Task[Streams]"]) -> None:
        reader, writer = await connect()
        writer.write(REQUEST * 2000)
        async with asyncio.timeout(SOON * 3):
            for _ in range(2000):
                assert (await raw.read_answer(reader)).status == 200

    async def test_bodies_are_no_heads(self, connect: Callable[..., "asyncio.Task[Streams]"]) -> None:
        reader, writer = await connect()
        body = json.dumps({"a": "x" * 16_000}).encode()
        head = raw.head("POST", "/users", Content_Type="application/json", Content_Length=str(len(body)))
        writer.write((head.replace(b"close", b"keep-alive") + body) * 5)
        for _ in range(5):
            (await raw.read_answer(reader)).problem(400, "invalid-request")


@pytest.mark.usefixtures("impatient")
class TestPatience:
    async def test_nothing_said_is_closed(
        self, service: Service, connect: Callable[..., "asyncio.Task[Streams]"]
    ) -> None:
        reader, _ = await connect()
        assert await is_closed(reader)
        assert await ended(service, "head_seconds") == 1

    @pytest.mark.parametrize("before", [b"", REQUEST])
    async def test_a_head_that_is_not_finished_is_408_and_closed(
        self, connect: Callable[..., "asyncio.Task[Streams]"], before: bytes
    ) -> None:
        reader, writer = await connect()
        if before:
            writer.write(before)
            assert (await raw.read_answer(reader)).status == 200

        async def trickle() -> None:
            for byte in raw.head("GET", "/" + "x" * 1000):
                writer.write(bytes([byte]))
                await asyncio.sleep(0.1)

        trickling = asyncio.create_task(trickle())
        answer = await raw.read_answer(reader)
        answer.problem(408, "request-timeout")
        assert answer.headers["Connection"] == "close"
        assert await is_closed(reader)
        trickling.cancel()

    async def test_a_body_that_is_not_finished_is_408_and_closed(
        self, connect: Callable[..., "asyncio.Task[Streams]"]
    ) -> None:
        reader, writer = await connect()
        writer.write(BODY.replace(b"close", b"keep-alive"))
        answer = await raw.read_answer(reader)
        answer.problem(408, "request-timeout")
        assert answer.headers["Connection"] == "close"
        assert await is_closed(reader)

    async def test_answers_that_nobody_reads_are_cut(
        self, service: Service, connect: Callable[..., "asyncio.Task[Streams]"]
    ) -> None:
        _, writer = await connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(raw.head("GET", "/docs/swagger-ui-bundle.js").replace(b"close", b"keep-alive") * 40)
        async with asyncio.timeout(SOON):
            while not await ended(service, "answer"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def test_a_large_answer_that_is_read_slowly_is_not_cut(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_protocol, "ANSWER_BYTES_MIN", 1024)
        address = urlsplit(service.base_url)
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, (address.hostname, address.port))
            await loop.sock_sendall(slow, raw.head("GET", "/docs/swagger-ui-bundle.js"))
            received, until = 0, loop.time() + 4
            while loop.time() < until:
                # Many times as much as it must take.
                read = await loop.sock_recv(slow, 16 * 1024)
                assert read, f"cut after {received} bytes"
                received += len(read)
                await asyncio.sleep(0.1)

    async def test_a_large_answer_that_is_read_comes_whole(self, service: Service) -> None:
        answer = await service.get("/docs/swagger-ui-bundle.js")
        assert len(answer.body) == int(answer.headers["Content-Length"]) > 1_000_000


class TestRoom:
    @pytest.fixture(autouse=True)
    def _few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "CONNECTIONS_MAX_BY_ADDRESS", 5)

    async def test_who_says_nothing_makes_room(
        self, service: Service, connect: Callable[..., "asyncio.Task[Streams]"]
    ) -> None:
        silent = [await connect() for _ in range(20)]
        served_reader, served_writer = await connect()
        served_writer.write(REQUEST)
        assert (await raw.read_answer(served_reader)).status == 200
        more = [await connect() for _ in range(3)]
        served_writer.write(REQUEST)
        assert (await raw.read_answer(served_reader)).status == 200
        assert await is_closed(silent[0][0])
        assert not more[-1][0].at_eof()
        assert await ended(service, "displaced") > 15
        assert await ended(service, "refused") == 0

    async def test_who_is_busy_does_not(
        self, service: Service, connect: Callable[..., "asyncio.Task[Streams]"]
    ) -> None:
        busy = [await connect("127.0.0.2") for _ in range(5)]
        for _, writer in busy:
            writer.write(BODY)
        async with asyncio.timeout(SOON):
            while True:
                reader, _ = await connect("127.0.0.2")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        if await is_closed(reader):
                            break
        assert await ended(service, "refused") >= 1
        # Another address has a share of its own.
        reader, writer = await connect("127.0.0.3")
        writer.write(REQUEST)
        assert (await raw.read_answer(reader)).status == 200

    async def test_a_trusted_proxy_is_many_clients(self, start_service: StartService, settings: Settings) -> None:
        service = await start_service(replace(settings, trusted_proxies=(ip_network("127.0.0.2"),)))
        address = urlsplit(service.base_url)
        writers = []
        for _ in range(10):
            _, writer = await asyncio.open_connection(address.hostname, address.port, local_addr=("127.0.0.2", 0))
            writer.write(REQUEST)
            writers.append(writer)
        (await service.get("/health")).ok()
        assert await ended(service, "displaced") == 0
        for writer in writers:
            writer.close()
            await writer.wait_closed()


async def test_where_no_file_is_left_they_wait_until_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scarce(socket.socket):
        files = 0

        def accept(self) -> tuple[socket.socket, tuple[str, int]]:
            if not self.files:
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    monkeypatch.setattr(listener, "PAUSE_SECONDS", 0.05)
    listening = Scarce()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    listening.setblocking(False)
    accepted: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    missed = asyncio.Event()

    def accept(connection: socket.socket, address: str) -> None:
        connection.close()
        accepted.set_result(address)

    accepting = Listener([listening], accept, missed.set)
    try:
        _, writer = await asyncio.open_connection(*listening.getsockname())
        async with asyncio.timeout(SOON):
            await missed.wait()
            Scarce.files = 1
            assert await accepted == "127.0.0.1"
        writer.close()
        await writer.wait_closed()
    finally:
        accepting.close()
