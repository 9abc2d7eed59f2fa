"""Who opens accounts without end, or many users who do, keep nobody's node from coming back."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from aiopypay.stand_in.store import Store
from tests.outage.caller import account_in, call
from tests.outage.conftest import directory, migrated_postgres  # noqa: F401 - fixtures
from tests.outage.load import Person
from tests.outage.node import NodeHere, running
from tests.outage.postgres import PostgresServer
from tests.outage.service import NewService, ServiceProcess
from tests.outage.shop import Shop, open_shop
from tests.outage.waiting import eventually

ACCOUNTS_MAX = 100
BACK_SECONDS = 15
CERTAIN_SECONDS = 100
AT_ONCE = 16

# As older versions let users open them; not logged for the node, as theirs were not.
HOARD = """
SET aiopypay.node = 'yes';
INSERT INTO accounts (user_id, currency_id) SELECT %s, 'USD' FROM generate_series(1, %s)
"""
CROWD = """
SET aiopypay.node = 'yes';
INSERT INTO users (username, full_name, password_hash) SELECT 'crowd' || number, 'Crowd', '!'
FROM generate_series(1, %s) AS number;
INSERT INTO accounts (user_id, currency_id) SELECT users.id, currencies.id FROM users, currencies
WHERE username LIKE 'crowd%%' ORDER BY users.id, ordinal
"""


@pytest.fixture
def hoard(request: pytest.FixtureRequest) -> int:
    """How many accounts one user has."""
    return int(request.config.getoption("--hoard"))


@pytest.fixture
async def shop(
    empty_postgres: PostgresServer, new_service: NewService, settings: dict[str, str]
) -> AsyncIterator[Shop]:
    """Anna pays Bert, by way of a node and its database."""
    async with open_shop(empty_postgres, new_service, settings) as opened:
        yield opened


async def opens(shop: Shop, person: Person) -> int:
    """Opens an account; returns the status."""
    path = f"/users/{person.id}/accounts/USD"
    return (await call(shop.service.base_url, "POST", path, person.headers)).status


async def is_certain(service: ServiceProcess) -> bool:
    """Whether the node relies on all that it remembers of users."""
    return not (await service.health())["remembered"].get("uncertain", 0)


async def left_uncertain(shop: Shop, person: Person) -> None:
    """The node dies while this user opens an account."""
    with shop.postgres.connected() as connection, connection.cursor() as cursor:
        connection.autocommit = False
        cursor.execute("SELECT FROM users WHERE id = %s FOR UPDATE", (person.id,))
        opening = asyncio.create_task(opens(shop, person))
        await eventually(shop.postgres.waits_for_lock, 5, "the account is being opened")
        shop.service.kill()
        await asyncio.wait({opening})
        assert opening.exception() is not None


async def test_the_node_comes_back_whoever_hoards_accounts(shop: Shop, hoard: int) -> None:
    # The way to the database leads through this test's event loop.
    await asyncio.to_thread(shop.postgres.execute, HOARD, shop.bert.id, hoard)
    await left_uncertain(shop, shop.bert)
    await shop.take_database()
    shop.service.start()
    await shop.service.wait_ready()
    assert (await shop.pay("10")).status == 202
    assert not await is_certain(shop.service)

    await shop.bring_database()
    await shop.service.wait_mode("online", BACK_SECONDS)
    assert (await shop.pay("10")).status == 200
    times_lost = shop.service.whole_log().count("The database is lost")
    await eventually(lambda: is_certain(shop.service), CERTAIN_SECONDS, "everybody is certain")
    assert (await shop.pay("10")).status == 200
    assert shop.service.whole_log().count("The database is lost") == times_lost
    # All of them are known, and who has more than one may have keeps them.
    assert (await opens(shop, shop.bert)) == 409
    await shop.take_database()
    path = f"/users/{shop.bert.id}/accounts?limit=1000&after={account_in(shop.bert, 'EUR')}"
    accounts = await call(shop.service.base_url, "GET", path, shop.bert.headers)
    # While the node does not yet remember all, it does not guess.
    assert accounts.status == 503 or len(accounts.body) == min(1000, hoard)


async def test_a_user_opens_no_more_accounts_than_one_may_have(shop: Shop) -> None:
    async def open_all_the_time() -> list[int]:
        return [await opens(shop, shop.bert) for _ in range(ACCOUNTS_MAX // AT_ONCE + 3)]

    statuses = [
        status for some in await asyncio.gather(*(open_all_the_time() for _ in range(AT_ONCE))) for status in some
    ]
    assert set(statuses) <= {200, 409, 503}
    [(number,)] = shop.postgres.execute("SELECT count(*) FROM accounts WHERE user_id = %s", shop.bert.id)
    assert number == ACCOUNTS_MAX
    # What was refused leaves nobody uncertain, and nothing to be read anew.
    await eventually(lambda: is_certain(shop.service), BACK_SECONDS, "Bert is certain")
    await shop.take_database()
    assert (await shop.pay("10")).status == 202
    answer = await call(shop.service.base_url, "GET", f"/users/{shop.bert.id}/accounts", shop.bert.headers)
    assert (answer.status, len(answer.body)) == (200, ACCOUNTS_MAX)


@pytest.fixture
def crowd_postgres(migrated_postgres: PostgresServer) -> PostgresServer:  # noqa: F811 - the fixture
    """30 000 users with three accounts each."""
    migrated_postgres.execute(CROWD, 30_000)
    return migrated_postgres


async def test_so_does_a_node_for_which_very_many_users_are_uncertain(
    crowd_postgres: PostgresServer,
    directory: Path,  # noqa: F811 - the fixture
) -> None:
    def mark(store: Store) -> None:
        with store.transaction(durable=False):
            for number in range(1, 30_001):
                store.mark_uncertain(f"crowd{number}")

    async with running(crowd_postgres.dsn, directory) as node:
        await node.stand_in._node.run(mark)
        node.switch.lost("a test")
        await eventually(lambda: node.switch.is_up, BACK_SECONDS, "online again")
        epoch = node.switch.epoch
        left = await uncertain_count(node)

        async def gets_on() -> bool:
            return await uncertain_count(node) < left - 1000

        await eventually(gets_on, CERTAIN_SECONDS, "they become certain, one after the other")
        assert node.switch.epoch == epoch
        assert node.switch.is_up
        known = await node.stand_in._node.run(lambda store: store.user_by_name("crowd1"))
        assert known is not None
        accounts = await node.stand_in._node.run(lambda store: store.accounts_of_user(known.id, 0, 10))
        assert [account.amount for account in accounts] == [Decimal(0)] * 3


async def uncertain_count(node: NodeHere) -> int:
    """How many users are uncertain."""
    return await node.stand_in._node.run(Store.uncertain_count)
