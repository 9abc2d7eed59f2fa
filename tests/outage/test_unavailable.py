"""While the database is away payments go on, each other route says so within 2 s, and all works again 2 s later."""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager

import aiohttp
import pytest

from aiopypay.preparation import START_PATIENCE_SECONDS

from .checker import check
from .load import Load, Person, register_people
from .postgres import PostgresServer
from .proxy import Proxy
from .routes import (
    UNKNOWN_ORDER,
    Request,
    Response,
    client,
    databaseless,
    other_writes,
    payment,
    reads,
    send,
    unknown_order,
)
from .service import NewService, ServiceProcess, free_port
from .waiting import Stopwatch, eventually

ANSWER_SECONDS = 2.0
BACK_SECONDS = 2.0
AT_ONCE_SECONDS = 0.5
# An attempt to reach the database, and Python's own start on a busy machine.
START_SECONDS = 6.0
CONCURRENT = 64
# So many at once keep one core busy for a while: passwords are hashed, and the database was not asked before.
BUSY_SECONDS = 0.5


class Site:
    """A service with a user, reached through a proxy, and its PostgreSQL."""

    def __init__(self, postgres: PostgresServer, proxy: Proxy, service: ServiceProcess, person: Person) -> None:
        self.postgres = postgres
        self.proxy = proxy
        self.service = service
        self.person = person

    def stranger(self) -> Person:
        """Somebody who knows the user's name, but not the password."""
        return dataclasses.replace(self.person, password="wrong")

    def requests(self) -> list[Request]:
        """One to each route that needs the database."""
        return [*reads(self.person), unknown_order(self.person), payment(self.person), *other_writes(self.person)]

    async def send_all(self, requests: Sequence[Request]) -> list[Response]:
        """Sends them all at once."""
        async with client() as session:
            return list(await asyncio.gather(*(send(session, self.service.base_url, one) for one in requests)))

    def pay(self, times: int) -> "asyncio.Task[list[Response]]":
        """Sends so many payments, all at once, without waiting for the answers."""
        return asyncio.create_task(self.send_all([payment(self.person) for _ in range(times)]))

    async def works(self) -> bool:
        """Whether every route does what it is for."""
        expected = [200, 200, 200, 200, 404, 200, 200, 201]
        return [response.status for response in await self.send_all(self.requests())] == expected


@pytest.fixture
async def site(empty_postgres: PostgresServer, new_service: NewService) -> AsyncIterator[Site]:
    """All routes have been used, so that connections are open and passwords verified."""
    async with Proxy(empty_postgres.port) as proxy:
        service = new_service(proxy.dsn(empty_postgres.dsn))
        service.start()
        await service.wait_ready()
        (person,) = await register_people(service.base_url, ["anna"])
        site = Site(empty_postgres, proxy, service, person)
        assert await site.works()
        await service.wait_filled()
        yield site


@contextlib.asynccontextmanager
async def _stopped(site: Site) -> AsyncIterator[None]:
    await asyncio.to_thread(site.postgres.stop)
    yield
    await asyncio.to_thread(site.postgres.start)


@contextlib.asynccontextmanager
async def _killed(site: Site) -> AsyncIterator[None]:
    await asyncio.to_thread(site.postgres.kill)
    yield
    await asyncio.to_thread(site.postgres.start)


@contextlib.asynccontextmanager
async def _frozen(site: Site) -> AsyncIterator[None]:
    await asyncio.to_thread(site.postgres.freeze)
    yield
    site.postgres.thaw()


@contextlib.asynccontextmanager
async def _black_hole(site: Site) -> AsyncIterator[None]:
    site.proxy.black_hole()
    yield
    site.proxy.heal()


@contextlib.asynccontextmanager
async def _starting_up(site: Site) -> AsyncIterator[None]:
    with contextlib.ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, site.postgres.starting_up())
        yield
        await asyncio.to_thread(stack.close)


Away = Callable[[Site], AbstractAsyncContextManager[None]]


@pytest.fixture(params=[_stopped, _killed, _frozen, _black_hole, _starting_up], ids=lambda away: away.__name__[1:])
def away(request: pytest.FixtureRequest) -> Away:
    """How the database is away."""
    return request.param  # type: ignore[no-any-return]


def _is_stood_in_for(response: Response, within_seconds: float = ANSWER_SECONDS) -> None:
    """Payments are accepted; the node's accounts and the currencies are shown as they will be; all else is 503."""
    what = f"{response.request.method} {response.request.path}: {response.status} {response.body}"
    assert response.seconds < within_seconds, f"{what} after {response.seconds:.2f} s"
    assert response.headers["Aiopypay-Mode"] == "stand-in", what
    if response.request.path.endswith("/transfers") and response.request.method == "POST":
        assert response.status == 202, what
        assert json.loads(response.body)["status"] == "pending", what
    elif response.request.method == "GET" and not response.request.path.endswith(("/transfers", UNKNOWN_ORDER)):
        assert response.status == 200, what
    else:
        _says_unavailable(response)


def _says_unavailable(response: Response) -> None:
    what = f"{response.request.method} {response.request.path}: {response.status} {response.body}"
    assert response.status == 503, what
    assert response.headers["Content-Type"].startswith("application/problem+json"), what
    assert json.loads(response.body)["status"] == 503, what
    assert int(response.headers["Retry-After"]) > 0, what
    assert response.request.method != "GET" or "booked" not in str(response.body), what


async def test_each_route_says_so_and_works_again(site: Site, away: Away) -> None:
    async with away(site):
        # Twice: with the connections that were open, and with none.
        for _ in range(2):
            for response in await site.send_all(site.requests()):
                _is_stood_in_for(response)
            for response in await site.send_all(databaseless()):
                assert (response.status, response.seconds < AT_ONCE_SECONDS) == (200, True)
        (stranger,) = await site.send_all([payment(site.stranger())])
        assert stranger.status == 401

    await eventually(site.works, BACK_SECONDS, "the routes work again")


async def test_many_at_once_are_answered_as_fast(site: Site, away: Away) -> None:
    async with away(site):
        requests = [request for _ in range(CONCURRENT // 8) for request in site.requests()]
        assert len(requests) == CONCURRENT
        for response in await site.send_all(requests):
            _is_stood_in_for(response, ANSWER_SECONDS + BUSY_SECONDS)

    await eventually(site.works, BACK_SECONDS, "the routes work again")


async def test_it_is_alive_while_many_wait_for_a_frozen_database(site: Site) -> None:
    async with _frozen(site):
        waiting = site.pay(CONCURRENT)
        while not waiting.done():
            for response in await site.send_all(databaseless()):
                assert (response.status, response.seconds < AT_ONCE_SECONDS) == (200, True)
        for response in await waiting:
            _is_stood_in_for(response)


class TestStart:
    async def test_a_database_that_comes_late_is_waited_for(
        self, empty_postgres: PostgresServer, new_service: NewService
    ) -> None:
        empty_postgres.stop()
        service = new_service(empty_postgres.dsn)
        service.start()
        await eventually(lambda: "Waiting for the database" in service.log(), 10, "it says that it waits")
        assert service.is_running()
        empty_postgres.start()

        await service.wait_ready(within_seconds=5)
        await service.terminate()

    async def test_a_database_that_starts_up_is_waited_for(
        self, empty_postgres: PostgresServer, new_service: NewService
    ) -> None:
        service = new_service(empty_postgres.dsn)
        with empty_postgres.starting_up():
            service.start()
            await eventually(lambda: "Waiting for the database" in service.log(), 10, "it says that it waits")

        await service.wait_ready(within_seconds=5)
        await service.terminate()

    async def test_a_stop_while_it_waits_is_clean(self, new_service: NewService) -> None:
        service = new_service(_nowhere())
        service.start()
        await eventually(lambda: "Waiting for the database" in service.log(), 10, "it says that it waits")

        await service.terminate()

    @pytest.mark.parametrize("away", [_stopped, _black_hole], ids=["stopped", "black_hole"])
    async def test_a_node_that_knows_its_database_starts_without_it_at_once(self, site: Site, away: Away) -> None:
        await site.service.terminate()
        async with away(site):
            site.service.start()
            assert await site.service.wait_ready() < START_SECONDS
            for response in await site.send_all(site.requests()):
                _is_stood_in_for(response)

        await eventually(site.works, BACK_SECONDS, "the routes work again")

    async def test_a_database_that_never_comes_is_given_up(self, hopeless: tuple[ServiceProcess, Stopwatch]) -> None:
        """Last in this module: the service has waited since its beginning."""
        service, watch = hopeless
        status = await service.wait_exit(within_seconds=START_PATIENCE_SECONDS + 10)

        assert status == 1
        last = service.log().splitlines()[-1]
        assert last.startswith("aiopypay: the database did not answer"), service.log()
        assert "Traceback" not in service.log()
        assert watch.seconds >= START_PATIENCE_SECONDS


@pytest.fixture(scope="module", autouse=True)
def hopeless() -> Iterator[tuple[ServiceProcess, Stopwatch]]:
    """A service without a database, started with the module."""
    service = ServiceProcess(_nowhere())
    try:
        service.start()
        yield service, Stopwatch()
    finally:
        service.remove()


def _nowhere() -> str:
    return f"postgresql://anna:password@127.0.0.1:{free_port()}/aiopypay"


class TestStop:
    async def test_what_is_on_its_way_is_answered(self, site: Site) -> None:
        account_id = min(site.person.accounts)
        with site.postgres.connected() as other, other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT 1 FROM accounts WHERE id = %s FOR UPDATE", (account_id,))
            paying = site.pay(8)
            await eventually(site.postgres.waits_for_lock, 5, "the payments wait for a lock")
            site.service.send_stop()
            await eventually(lambda: "Stopping" in site.service.log(), 5, "it has heard of the stop")
            assert not paying.done()
            cursor.execute("COMMIT")

        assert [response.status for response in await paying] == [200] * 8
        assert await site.service.wait_exit() == 0

    async def test_under_load_nothing_acknowledged_is_lost(
        self, empty_postgres: PostgresServer, new_service: NewService, seed: int, report: Callable[[str], None]
    ) -> None:
        service = new_service(empty_postgres.dsn)
        service.start()
        await service.wait_ready()
        load = Load(service.base_url, await register_people(service.base_url, ["anna", "bert", "cleo"]), seed)
        async with load.running():
            await eventually(lambda: load.answered(200) > 100, 20, "payments")
            await service.terminate()
        service.start()
        await service.wait_ready()
        await load.resolve()
        report(f"stop under load, seed {seed}: {load.counts()}")

        with empty_postgres.connected() as connection:
            check(connection, load.payments)

    async def test_no_connection_is_left_behind(self, site: Site) -> None:
        await site.service.terminate()

        await eventually(lambda: site.proxy.connections == 0, 2, "all connections are closed")

    @pytest.mark.parametrize("away", [_stopped, _frozen, _black_hole], ids=["stopped", "frozen", "black_hole"])
    async def test_it_is_clean_while_the_database_is_away(self, site: Site, away: Away) -> None:
        async with away(site):
            waiting = site.pay(8)
            watch = Stopwatch()
            await site.service.terminate()
            assert watch.seconds < 5
            with contextlib.suppress(aiohttp.ClientError):
                await waiting
