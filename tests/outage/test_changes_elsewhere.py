"""What others change in SQL a node knows within two seconds of its COMMIT, at next to no cost while nothing changes."""

import asyncio
import io
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aiopypay.database import Database
from aiopypay.errors import NotKnownHere
from aiopypay.passwords import Passwords
from aiopypay.stand_in import elsewhere, reading
from aiopypay.stand_in.elsewhere import ChangesElsewhere
from aiopypay.stand_in.fill import Fill
from aiopypay.stand_in.settle import Settlement
from aiopypay.stand_in.store import Store
from aiopypay.statements import Connection
from aiopypay.store import change_log
from aiopypay.store.administration import UserChange, change_user
from aiopypay.store.change_log import Change
from aiopypay.store.currencies import change_currency
from aiopypay.store.users import User

from .caller import account_in, balance, call, pay
from .load import credentials
from .node import Holder, NodeHere, add_holders, balance_of, refused_orders, running
from .postgres import PostgresServer
from .shop import Shop
from .waiting import eventually

# The promise.
KNOWN_SECONDS = 2.0
MANY = 12_000
SOON = 10

DEACTIVATE = "UPDATE users SET is_active = FALSE WHERE id = %s"
ACTIVATE = "UPDATE users SET is_active = TRUE WHERE id = %s"
# As the migrations advise: what was wrong is booked the other way round.
CORRECT = """
WITH corrected AS (
    INSERT INTO orders (id, user_id, fingerprint, status, accepted_at, posted_at)
    VALUES (gen_random_uuid(), 1, '', 'posted', now(), now()) RETURNING id
), moved AS (
    INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
    SELECT id, 'withdrawal', %(account)s, -1, %(amount)s, 'Correction' FROM corrected
)
UPDATE accounts SET amount = amount + CASE WHEN id < 0 THEN %(amount)s ELSE -%(amount)s END
WHERE id IN (%(account)s, -1)
"""


def correct(postgres: PostgresServer, holder: Holder, amount: str, *, before: str = "") -> None:
    """Takes money away by hand, as the superuser of the database, in one transaction."""
    with postgres.connected(administrator=True) as connection, connection.cursor() as cursor:
        cursor.execute(before + CORRECT, {"account": holder.account, "amount": Decimal(amount)})


async def known_amount(node: NodeHere, holder: Holder, amount: str) -> None:
    """Returns when the node remembers this amount; fails where that takes longer than was promised."""

    async def is_known() -> bool:
        return (await node.expected(holder)) == Decimal(amount)

    await eventually(is_known, KNOWN_SECONDS, "what was changed in SQL is known")


async def user(node: NodeHere, username: str) -> Any:
    """What the node answers about a user without the database."""
    return (await node.stand_in.deputy.users([username]))[username]


async def is_read(node: NodeHere) -> bool:
    """Whether all that was seen changed was read."""
    return not await unread(node)


async def unread(node: NodeHere) -> bool:
    """Whether something was seen changed and is not read."""
    return await node.stand_in._node.run(lambda store: bool(store.changed()))


async def _not_now(*_: object) -> bool:
    """Reads nothing of what was seen changed."""
    return False


class TestService:
    async def test_it_knows_all_that_psql_has_changed_two_seconds_before(self, shop: Shop) -> None:
        carl = credentials("carl", "carl's password")
        passwords = Passwords()
        encoded = await passwords.hash("carl's password")
        passwords.close()
        with shop.postgres.connected() as connection, connection.cursor() as cursor:
            cursor.execute(DEACTIVATE, (shop.bert.id,))
            cursor.execute(CORRECT, {"account": shop.from_id, "amount": Decimal(200)})
            cursor.execute("UPDATE currencies SET commission = 0.05 WHERE id = 'USD'")
            cursor.execute(
                "INSERT INTO users (username, full_name, password_hash) VALUES ('carl', 'Carl', %s) RETURNING id",
                (encoded,),
            )
            carl_id = cursor.fetchall()[0][0]
            cursor.execute("INSERT INTO accounts (user_id, currency_id) VALUES (%s, 'USD') RETURNING id", (carl_id,))
            carl_account = cursor.fetchall()[0][0]
        await asyncio.sleep(KNOWN_SECONDS)
        await shop.take_database()

        from_bert = await pay(
            shop.service.base_url, shop.bert, account_in(shop.bert, "USD"), account_in(shop.anna, "USD"), "1"
        )
        assert (from_bert.status, from_bert.problem) == (403, "user-deactivated")
        assert await shop.balance() == 100
        assert (await shop.pay("99")).status == 402
        assert (await pay(shop.service.base_url, shop.anna, shop.from_id, carl_account, "20")).status == 202
        assert await shop.balance() == 79
        accounts = await call(shop.service.base_url, "GET", f"/users/{carl_id}/accounts", carl)
        assert [(account["id"], account["amount"]) for account in accounts.body] == [(carl_account, Decimal("20.00"))]
        await shop.bring_database()
        await shop.is_online()
        assert await shop.balance() == 79
        health = await shop.service.health()
        assert (health["refused_at_settling"], health["refused_after_changes_elsewhere"]) == (0, 0)

    async def test_what_was_refused_for_such_changes_is_counted_apart(self, shop: Shop) -> None:
        """Nobody could know: the change came while the database was away from the node."""
        await shop.take_database()
        correct(shop.postgres, Holder("anna", shop.anna.id, shop.from_id), "290")
        refused = await shop.accepted("250")
        bert = account_in(shop.bert, "USD")
        # Bert spends what he has not got.
        passed_on = await pay(shop.service.base_url, shop.bert, bert, shop.from_id, "400")
        assert passed_on.status == 202
        booked = await pay(shop.service.base_url, shop.bert, bert, shop.from_id, "1")
        await shop.bring_database()
        await shop.is_online()

        assert (await shop.order(refused))["status"] == "refused"
        health = await shop.service.health()
        assert (health["refused_at_settling"], health["refused_after_changes_elsewhere"]) == (2, 2)
        told = await call(
            shop.service.base_url, "GET", f"/users/{shop.bert.id}/orders/{booked.body['order_id']}", shop.bert.headers
        )
        assert told.body["status"] == "posted"
        assert await balance(shop.service.base_url, shop.anna, shop.from_id) == 11

    async def test_at_rest(self, shop: Shop, report: Callable[[str], None]) -> None:
        pids = [shop.service.pid, *shop.postgres.processes()]
        before, started = {pid: cpu_seconds(pid) for pid in pids}, time.monotonic()
        await asyncio.sleep(3)
        took = time.monotonic() - started
        service, *servers = (cpu_seconds(pid) - before[pid] for pid in pids)
        shares = [100 * used / took for used in (service, sum(servers))]
        report(f"at rest: service {shares[0]:.2f} %, PostgreSQL {shares[1]:.2f} % of a core")
        assert sum(shares) < 5


class OfNode:
    """A node in this process, on a database with the service's schema in it."""

    @pytest.fixture
    def postgres(self, migrated_postgres: PostgresServer) -> PostgresServer:
        """The cluster."""
        return migrated_postgres

    @pytest.fixture
    def three(self, postgres: PostgresServer) -> list[Holder]:
        """Users with 100 each."""
        return add_holders(postgres, 3)


class TestNode(OfNode):
    async def test_as_a_replica_too(self, postgres: PostgresServer, directory: Path, three: list[Holder]) -> None:
        """The superuser of the database skips triggers, but not these."""
        anna, bert, carl = three
        async with running(postgres.dsn, directory) as node:
            await node.filled()
            assert await node.pay(anna, bert, "10") == 200
            with postgres.connected(administrator=True) as connection, connection.cursor() as cursor:
                cursor.execute("SET session_replication_role = replica")
                cursor.execute(CORRECT, {"account": anna.account, "amount": Decimal(80)})
                cursor.execute(DEACTIVATE, (carl.user_id,))
            await known_amount(node, anna, "9.90")
            await asyncio.to_thread(postgres.stop)
            assert await node.pay(anna, bert, "10") == 402
            assert await node.pay(anna, bert, "9") == 202
            assert not (await user(node, carl.username)).is_active
            await asyncio.to_thread(postgres.start)
            await node.online()
        assert refused_orders(postgres) == []

    async def test_by_copy(self, postgres: PostgresServer, directory: Path, three: list[Holder]) -> None:
        async with running(postgres.dsn, directory) as node:
            await node.filled()
            with postgres.connected() as connection, connection.cursor() as cursor:
                cursor.copy_expert(
                    "COPY users (id, username, full_name, password_hash) FROM STDIN", io.StringIO("70\tdan\tDan\t!\n")
                )
                cursor.copy_expert("COPY accounts (id, user_id, currency_id) FROM STDIN", io.StringIO("700\t70\tUSD\n"))
            dan = Holder("dan", 70, 700)

            async def is_known() -> bool:
                return isinstance(await user(node, "dan"), User) and not await unread(node)

            await eventually(is_known, KNOWN_SECONDS, "the new user is known")
            await asyncio.to_thread(postgres.stop)
            assert await node.pay(three[0], dan, "20") == 202
            assert await node.expected(dan) == 20
            await asyncio.to_thread(postgres.start)
            await node.online()
        assert balance_of(postgres, dan) == 20

    async def test_a_user_of_another_name_is_known_by_it(
        self, postgres: PostgresServer, directory: Path, three: list[Holder]
    ) -> None:
        async with running(postgres.dsn, directory) as node:
            await node.filled()
            postgres.execute("UPDATE users SET username = 'zoe' WHERE id = %s", three[0].user_id)

            async def is_known() -> bool:
                return isinstance(await user(node, "zoe"), User)

            await eventually(is_known, KNOWN_SECONDS, "the new name is known")
            assert await user(node, three[0].username) is None

    async def test_a_transaction_that_began_long_before_others_and_commits_after_them(
        self, postgres: PostgresServer, directory: Path, three: list[Holder]
    ) -> None:
        anna, bert, carl = three
        async with running(postgres.dsn, directory) as node:
            await node.filled()
            with postgres.connected(administrator=True) as connection, connection.cursor() as cursor:
                connection.autocommit = False
                cursor.execute(CORRECT, {"account": anna.account, "amount": Decimal(80)})
                for amount in ("10", "20"):
                    postgres.execute("UPDATE accounts SET amount = amount - %s WHERE id = %s", amount, bert.account)
                    await known_amount(node, bert, "90" if amount == "10" else "70")
                assert await node.pay(bert, carl, "1") == 200
                assert await node.expected(anna) == 100
                connection.commit()
                await known_amount(node, anna, "20")

    async def test_twelve_thousand_rows_at_once(
        self, postgres: PostgresServer, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        holders = add_holders(postgres, MANY)
        anna, bert, last = holders[0], holders[1], holders[-1]
        go_on = asyncio.Event()
        fill_accounts = Fill._fill_accounts

        async def slow(self: Fill) -> bool:
            await go_on.wait()
            return await fill_accounts(self)

        async with running(postgres.dsn, directory) as node:
            await node.filled()
            monkeypatch.setattr(Fill, "_fill_accounts", slow)
            postgres.execute("UPDATE accounts SET amount = amount - 40 WHERE user_id > 1")
            assert postgres.execute("SELECT subject, row_id FROM change_log WHERE row_id IS NULL OR row_id > 0") == [
                *[("users", None), ("accounts", None)],
                ("accounts", None),
            ]
            await eventually(lambda: not node.stand_in.deputy.filled, KNOWN_SECONDS, "all of them are in doubt")
            await asyncio.to_thread(postgres.stop)
            assert await node.pay(anna, bert, "70") == 503
            with pytest.raises(NotKnownHere):
                await node.stand_in.deputy.read(reading.account, last.account)
            await asyncio.to_thread(postgres.start)
            await node.online()
            go_on.set()
            await node.filled()
            for holder in (anna, last):
                assert await node.expected(holder) == 60
            await asyncio.to_thread(postgres.stop)
            assert await node.pay(anna, bert, "70") == 402
            assert await node.pay(anna, bert, "50") == 202
            await asyncio.to_thread(postgres.start)
            await node.online()
        assert refused_orders(postgres) == []

    async def test_what_was_seen_and_not_read_is_not_known_here(
        self, postgres: PostgresServer, directory: Path, three: list[Holder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nor after a restart without the database. Others go on paying."""
        anna, bert, carl = three

        async with running(postgres.dsn, directory, killed=True) as node:
            await node.filled()
            with monkeypatch.context() as patch:
                patch.setattr(ChangesElsewhere, "_read_some", _not_now)
                postgres.execute("UPDATE accounts SET amount = 0 WHERE id = %s", anna.account)
                postgres.execute(DEACTIVATE, carl.user_id)
                unread_changes = ("accounts", anna.account), ("users", carl.user_id)

                async def are_seen() -> bool:
                    return set(await node.stand_in._node.run(lambda store: store.changed())) == {*unread_changes}

                await eventually(are_seen, KNOWN_SECONDS, "the changes are seen")
                await asyncio.to_thread(postgres.stop)
                assert await node.pay(anna, bert, "10") == 503
        async with running(postgres.dsn, directory) as node:
            assert await node.pay(anna, bert, "10") == 503
            assert await node.pay(bert, anna, "10") == 503
            assert await node.pay(bert, carl, "10") == 202
            for holder in (anna, bert):
                told = node.stand_in.deputy.read(reading.account, holder.account)
                if holder is bert:
                    assert (await told).amount == Decimal("89.90")
                else:
                    with pytest.raises(NotKnownHere):
                        await told
            with pytest.raises(NotKnownHere):
                await node.stand_in.deputy.read(reading.accounts_of_user, anna.user_id, after=0, limit=100)
            assert isinstance(await user(node, carl.username), NotKnownHere)
            assert isinstance(await user(node, "nobody"), NotKnownHere)
            assert isinstance(await user(node, bert.username), User)
            await asyncio.to_thread(postgres.start)
            await node.online()
            assert not await unread(node)
            assert await node.expected(anna) == 0
            assert not (await user(node, carl.username)).is_active
        assert refused_orders(postgres) == []

    async def test_a_rate_that_was_seen_changed_and_not_read_is_not_applied(
        self, postgres: PostgresServer, directory: Path, three: list[Holder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        anna, bert, _ = three

        async with running(postgres.dsn, directory) as node:
            await node.filled()
            with monkeypatch.context() as patch:
                patch.setattr(ChangesElsewhere, "_read_some", _not_now)
                postgres.execute("UPDATE currencies SET commission = 0.5 WHERE id = 'USD'")
                await eventually(lambda: unread(node), KNOWN_SECONDS, "the change is seen")
                await asyncio.to_thread(postgres.stop)
                assert await node.pay(anna, bert, "10") == 503
            await asyncio.to_thread(postgres.start)
            await node.online()
            await asyncio.to_thread(postgres.stop)
            assert await node.pay(anna, bert, "10") == 202
            assert await node.expected(anna) == 85
            await asyncio.to_thread(postgres.start)
            await node.online()
        assert refused_orders(postgres) == []

    async def test_what_changes_again_while_it_is_read_is_read_again(
        self, postgres: PostgresServer, directory: Path, three: list[Holder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        anna = three[0]
        set_amount = "UPDATE accounts SET amount = %s WHERE id = %s"
        read = elsewhere._read
        again: list[int] = []

        async def and_changed_again(connection: Connection, page: Sequence[Change]) -> Any:
            reading = await read(connection, page)
            if ("accounts", anna.account) in page and not again:
                again.append(anna.account)
                postgres.execute(set_amount, 30, anna.account)
                await node.stand_in._elsewhere._look(node.others, overlap=False)
            return reading

        async with running(postgres.dsn, directory) as node:
            await node.filled()
            monkeypatch.setattr(elsewhere, "_read", and_changed_again)
            postgres.execute(set_amount, 60, anna.account)
            await eventually(lambda: bool(again), KNOWN_SECONDS, "the change is read")
            await known_amount(node, anna, "30")
            await eventually(lambda: is_read(node), KNOWN_SECONDS, "it is certain again")

    async def test_a_rate_read_before_it_was_changed_here_is_not_remembered_after_it(
        self, postgres: PostgresServer, directory: Path, three: list[Holder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = elsewhere._read
        changes: list[asyncio.Task[None]] = []

        async def change_here() -> None:
            async with node.stand_in.rates.transaction() as changing:
                assert await change_currency(changing, "USD", None, Decimal("0.07"))

        async def and_changed_here(connection: Connection, page: Sequence[Change]) -> Any:
            reading = await read(connection, page)
            if not changes:
                changes.append(asyncio.create_task(change_here()))
                await asyncio.sleep(0)
            return reading

        async with running(postgres.dsn, directory) as node:
            await node.filled()
            monkeypatch.setattr(elsewhere, "_read", and_changed_here)
            postgres.execute("UPDATE currencies SET commission = 0.5 WHERE id = 'EUR'")
            await eventually(lambda: bool(changes), KNOWN_SECONDS, "the change is read")
            await changes[0]
            await eventually(lambda: is_read(node), KNOWN_SECONDS, "it is certain again")
            known = await node.stand_in._node.run(Store.currencies)
        assert [str(currency.commission) for currency in known] == ["0.07", "0.02", "0.5"]

    async def test_what_was_changed_while_the_database_was_away_is_known_once_it_is_back(
        self, postgres: PostgresServer, directory: Path, three: list[Holder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The keeper has not had a turn since: going online reads the log to its end."""
        anna, bert, carl = three
        async with running(postgres.dsn, directory) as node:
            await node.filled()
            node.switch.lost("a test")
            postgres.execute("UPDATE accounts SET amount = 5 WHERE id = %s", anna.account)
            postgres.execute(DEACTIVATE, carl.user_id)
            follow = ChangesElsewhere.follow

            async def never(*_: object, **__: object) -> None:
                pass

            monkeypatch.setattr(ChangesElsewhere, "follow", never)
            await node.online()
            node.switch.lost("a test")
            assert await node.pay(anna, bert, "10") == 402
            assert not (await user(node, carl.username)).is_active
            monkeypatch.setattr(ChangesElsewhere, "follow", follow)
            await node.online()


class TestStart(OfNode):
    async def test_what_was_changed_while_the_node_was_down_is_known_from_its_start(
        self, postgres: PostgresServer, directory: Path, three: list[Holder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        anna, bert, carl = three
        async with running(postgres.dsn, directory) as node:
            await node.filled()
        postgres.execute("UPDATE accounts SET amount = 5 WHERE id = %s", anna.account)
        postgres.execute(DEACTIVATE, carl.user_id)

        async def never(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(Fill, "run", never)
        async with running(postgres.dsn, directory) as node:
            assert await node.expected(anna) == 5
            node.switch.lost("a test")
            assert await node.pay(anna, bert, "10") == 402
            assert not (await user(node, carl.username)).is_active
            await node.online()

    async def test_while_the_journal_has_entries_no_balance_is_read(
        self, postgres: PostgresServer, directory: Path, three: list[Holder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may hold what the journal has, which would then be counted twice."""
        anna, bert, _ = three
        go_on = asyncio.Event()
        settle_next = Settlement.settle_next

        async def slow(self: Settlement) -> int:
            await go_on.wait()
            return await settle_next(self)

        async with running(postgres.dsn, directory, killed=True) as node:
            await node.filled()
            await asyncio.to_thread(postgres.stop)
            assert await node.pay(anna, bert, "10") == 202
        await asyncio.to_thread(postgres.start)
        postgres.execute("UPDATE accounts SET amount = 50 WHERE id = %s", anna.account)
        monkeypatch.setattr(Settlement, "settle_next", slow)
        async with running(postgres.dsn, directory) as node:
            assert not node.switch.is_up
            assert await node.expected(anna) == Decimal("89.90")
            go_on.set()
            await node.online()
            assert await node.expected(anna) == balance_of(postgres, anna) == Decimal("39.90")

    async def test_where_the_log_no_longer_has_it_everything_is_read_anew(
        self, postgres: PostgresServer, directory: Path, three: list[Holder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        anna, bert, _ = three
        async with running(postgres.dsn, directory) as node:
            await node.filled()
        postgres.execute("UPDATE accounts SET amount = 5 WHERE id = %s", anna.account)
        age_log(postgres)
        # Another node has read it all, and drops what is old.
        postgres.execute("UPDATE installation SET heartbeat_at = now()")
        ((seen,),) = postgres.execute("SELECT pg_current_snapshot()::text")
        await prune(postgres, seen)
        assert postgres.execute("SELECT subject, row_id FROM change_log") == [("everything", None)]
        go_on = asyncio.Event()
        fill_accounts = Fill._fill_accounts

        async def slow(self: Fill) -> bool:
            await go_on.wait()
            return await fill_accounts(self)

        monkeypatch.setattr(Fill, "_fill_accounts", slow)
        async with running(postgres.dsn, directory) as node:
            node.switch.lost("a test")
            assert await node.pay(anna, bert, "1") == 503
            await node.online()
            go_on.set()
            await node.filled()
            assert await node.expected(anna) == 5
            assert not await unread(node)

    async def test_a_node_finds_nothing_missing_in_what_it_has_dropped_itself(
        self, postgres: PostgresServer, directory: Path, three: list[Holder]
    ) -> None:
        anna = three[0]
        async with running(postgres.dsn, directory, killed=True) as node:
            await node.filled()
            postgres.execute("UPDATE accounts SET amount = 5 WHERE id = %s", anna.account)
            await known_amount(node, anna, "5")
            age_log(postgres)
            # Behind the last look, so that nothing holds it back.
            await node.stand_in._elsewhere.follow()
            await node.stand_in._elsewhere.prune()
            assert postgres.execute("SELECT subject FROM change_log") == [("everything",)]
        async with running(postgres.dsn, directory) as node:
            assert not await unread(node)
            assert node.stand_in.deputy.filled


def age_log(postgres: PostgresServer) -> None:
    """Two days pass."""
    postgres.execute("UPDATE change_log SET logged_at = logged_at - INTERVAL '2 days'")


async def prune(postgres: PostgresServer, seen: str) -> None:
    """What a node does now and then that has seen so much."""
    database = Database(postgres.dsn, connections=1)
    try:
        async with database.transaction() as connection:
            await change_log.prune(connection, seen)
    finally:
        database.close()


class TestCost(OfNode):
    async def test_what_a_node_changes_itself_is_not_logged_and_stays_on_its_pages(
        self, postgres: PostgresServer, directory: Path, three: list[Holder]
    ) -> None:
        anna, bert, carl = three
        postgres.execute("TRUNCATE change_log")
        async with running(postgres.dsn, directory) as node:
            await node.filled()
            ((updates, hot),) = postgres.execute(UPDATES)
            for _ in range(20):
                assert await node.pay(anna, bert, "1") == 200
            async with node.stand_in.changes.transaction(carl.username) as connection:
                assert await change_user(connection, carl.username, UserChange(is_active=False))
            async with node.stand_in.rates.transaction() as connection:
                assert await change_currency(connection, "USD", None, Decimal("0.02"))
        ((updates_now, hot_now),) = postgres.execute(UPDATES)
        assert updates_now - updates >= 60
        assert updates_now - updates == hot_now - hot
        assert postgres.execute("SELECT * FROM change_log") == []


UPDATES = """
SELECT pg_stat_get_tuples_updated('accounts'::regclass), pg_stat_get_tuples_hot_updated('accounts'::regclass)
"""


def cpu_seconds(pid: int) -> float:
    """What a process has used of the processors so far; nothing where it has ended."""
    try:
        # Nanoseconds on the processor: finer than the ticks of `stat`.
        return (
            sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9
        )
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
