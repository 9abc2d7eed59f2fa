"""Money under concurrency: nothing lost, nothing invented, nobody's failure another's."""

import asyncio
import contextlib
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import psycopg2.extensions
import pytest
from psycopg2.extensions import make_dsn

from aiopypay.embedded.roles import ADMINISTRATOR
from aiopypay.group_commit import ROUNDS_MAX
from aiopypay.settings import Settings
from tests import ledger
from tests.client import Answer, Caller, Service
from tests.conftest import StartService

CURRENCIES = ("USD", "CNY", "EUR")


async def funded(service: Service, *amounts: str) -> Caller:
    """A user with these amounts in USD, CNY and EUR."""
    caller = await service.register()
    for currency_id, amount in zip(CURRENCIES, amounts, strict=False):
        ledger.deposit(service.database_url, caller.accounts[currency_id], amount)
    return caller


def statuses(answers: list[Answer]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


def booked_payments(service: Service) -> int:
    sql = "SELECT count(*) FROM transfers WHERE kind IN ('payment', 'internal')"
    return int(ledger.value(service.database_url, sql))


@pytest.fixture
def seed() -> int:
    """The seed of a randomised test; it is printed where the test fails."""
    number = secrets.randbits(32)
    print(f"seed: {number}")  # noqa: T201 - shown by pytest with the failure
    return number


async def test_of_twenty_that_fit_once_one_is_booked(service: Service) -> None:
    alice = await funded(service, "100")
    savings = await alice.open_account("USD")
    answers = await asyncio.gather(*(alice.transfer(alice.accounts["USD"], savings, "90") for _ in range(20)))
    assert statuses(answers) == {200: 1, 402: 19}
    assert await alice.balance() == Decimal("10.00")
    assert ledger.balance(service.database_url, savings) == 90
    ledger.assert_ledger_balances(service.database_url)


async def test_two_hundred_in_opposite_directions_are_all_booked(service: Service) -> None:
    alice = await funded(service, "1000")
    bob = await funded(service, "1000")
    answers = await asyncio.gather(
        *(alice.pay(bob, "1") if number % 2 else bob.pay(alice, "1") for number in range(200))
    )
    assert statuses(answers) == {200: 200}
    assert await alice.balance() == await bob.balance() == 999
    ledger.assert_ledger_balances(service.database_url)


async def test_two_hundred_in_opposite_directions_through_two_instances(
    start_service: StartService, settings: Settings, service: Service
) -> None:
    another = await start_service(settings)
    alice, bob = await funded(service, "1000"), await funded(service, "1000")
    await asyncio.gather(alice.at(another).list_accounts(), bob.at(another).list_accounts())
    answers = await asyncio.gather(
        *(
            payer.at(another if number % 3 else service).pay(payee, "1")
            for number, (payer, payee) in enumerate([(alice, bob), (bob, alice)] * 100)
        )
    )
    assert statuses(answers) == {200: 200}
    assert await alice.balance() == await bob.balance() == 999
    ledger.assert_ledger_balances(service.database_url)


@pytest.mark.parametrize("instances", [1, 2])
async def test_a_receipt_tells_the_balance_right_after_its_own_transfer(
    start_service: StartService, settings: Settings, service: Service, instances: int
) -> None:
    alice, bob = await funded(service, "100"), await service.register()
    callers = [alice, *[alice.at(await start_service(settings)) for _ in range(instances - 1)]]
    await asyncio.gather(*(caller.list_accounts() for caller in callers))
    answers = await asyncio.gather(*(callers[number % instances].pay(bob, "1") for number in range(50)))
    balances = sorted(answer.ok()["balance"] for answer in answers)
    assert balances == [100 - Decimal("1.01") * number for number in range(50, 0, -1)]


async def test_money_that_hops_along_a_chain_is_never_spent_twice(service: Service) -> None:
    first = await funded(service, "100")
    chain = [first, *[await service.register() for _ in range(4)]]
    for _ in range(10):
        await asyncio.gather(*(chain[i].pay(chain[(i + 1) % 5], "20") for i in range(5) for _ in range(3)))
        ledger.assert_ledger_balances(service.database_url)


async def pay_at_random(callers: list[Caller], dice: random.Random, number: int, workers: int) -> Counter[int]:
    """Sends random transfers from so many tasks at once; returns the statuses."""
    seen: Counter[int] = Counter()
    remaining = iter(range(number))

    async def work() -> None:
        for _ in remaining:
            payer, payee = dice.sample(callers, 2)
            currency_id = dice.choice(CURRENCIES)
            amount = f"{dice.choice(('0.01', '1', '9.99', '33.33', '250'))}"
            answer = await payer.pay(payee, amount, currency_id)
            seen[answer.status] += 1
            if answer.status not in (200, 402):
                raise AssertionError(answer.text)

    await asyncio.gather(*(work() for _ in range(workers)))
    return seen


async def test_three_thousand_random_transfers_leave_the_books_in_balance(service: Service, seed: int) -> None:
    # One by one: their deposits keep the event loop, and with it the service, waiting.
    callers = [await funded(service, "500", "500", "500") for _ in range(50)]
    seen = await pay_at_random(callers, random.Random(seed), number=3_000, workers=100)
    assert seen.total() == 3_000
    assert seen[200] > 500
    assert seen[402] > 0
    assert booked_payments(service) == seen[200]
    ledger.assert_ledger_balances(service.database_url)


async def test_two_instances_share_accounts_and_keys(
    start_service: StartService, settings: Settings, service: Service, seed: int
) -> None:
    another = await start_service(settings)
    dice = random.Random(seed)
    callers = [await funded(service, "100") for _ in range(4)]
    await asyncio.gather(*(caller.at(another).list_accounts() for caller in callers))
    keys = []
    for number in range(150):
        payer, payee = dice.sample(callers, 2)
        keys.append((payer, payee, dice.choice(("1", "30", "60")), f"key-{number}"))
    attempts = [(*key, at) for key in keys for at in (service, another, service, another)]
    dice.shuffle(attempts)
    answers: dict[str, list[Answer]] = {key: [] for *_, key in keys}

    async def attempt(payer: Caller, payee: Caller, amount: str, key: str, at: Service) -> None:
        answers[key].append(await payer.at(at).pay(payee, amount, key=key))

    await asyncio.gather(*(attempt(*one) for one in attempts))
    for of_key in answers.values():
        # A refusal does not burn the key: what is 402 first may be 200 later. What is booked has one receipt.
        assert set(statuses(of_key)) <= {200, 402}
        assert len({answer.body for answer in of_key if answer.status == 200}) <= 1
    booked = sum(any(answer.status == 200 for answer in of_key) for of_key in answers.values())
    assert booked_payments(service) == booked > 0
    ledger.assert_ledger_balances(service.database_url)


# Orders that the database itself does not take


REFUSE_POISON = """
CREATE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.comment = 'poison' THEN
        RAISE EXCEPTION 'poison' USING ERRCODE = '{sqlstate}';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER refuse_poison BEFORE INSERT ON transfers FOR EACH ROW EXECUTE FUNCTION refuse_poison();
"""


@contextlib.asynccontextmanager
async def batch_held_back(service: Service, caller: Caller) -> AsyncIterator[None]:
    """Keeps the batch of the caller's next order waiting for a lock, so that what follows shares the one behind it."""
    with ledger_session(service.database_url) as session:
        with session.cursor() as cursor:
            cursor.execute("SELECT 1 FROM accounts WHERE id = %s FOR UPDATE", (caller.accounts["USD"],))
        yield
        session.rollback()


@contextlib.contextmanager
def ledger_session(database_url: str) -> Iterator[psycopg2.extensions.connection]:
    """A session in which an explicit transaction is open."""
    session = ledger.connect(database_url)
    session.autocommit = False
    try:
        yield session
    finally:
        session.close()


def blocked_sessions(database_url: str) -> int:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    # Of sessions of other roles only the superuser sees what they wait for.
    return int(ledger.value(make_dsn(database_url, user=ADMINISTRATOR), sql))


async def until_blocked(database_url: str, sessions: int = 1) -> None:
    """Waits until so many sessions wait for a lock."""
    async with asyncio.timeout(5):
        while await asyncio.to_thread(blocked_sessions, database_url) < sessions:
            pass


@pytest.mark.parametrize("constraint", ["trigger", "check"])
async def test_a_poisonous_order_gets_its_own_answer_and_its_neighbours_theirs(
    service: Service, constraint: str
) -> None:
    if constraint == "trigger":
        await ledger.alter(service.database_url, REFUSE_POISON.format(sqlstate="P0001"))
    else:
        await ledger.alter(service.database_url, "ALTER TABLE transfers ADD CHECK (comment <> 'poison')")
    holder, alice, bob = await funded(service, "10"), await funded(service, "100"), await service.register()
    comments = ["fine"] * 30
    comments[13] = "poison"
    async with batch_held_back(service, holder):
        held = asyncio.create_task(holder.pay(bob, "1"))
        await until_blocked(service.database_url)
        tasks = [
            asyncio.create_task(alice.pay(bob, "1", comment=comment, key=f"key-{number}"))
            for number, comment in enumerate(comments)
        ]
        # All have arrived, and wait behind the batch that waits for the lock.
        (await service.get("/health")).ok()
    answers = await asyncio.gather(*tasks)
    (await held).ok()
    batches = "SELECT count(DISTINCT posted_at) FROM orders WHERE user_id = %s AND idempotency_key IS NOT NULL"
    assert ledger.value(service.database_url, batches, (alice.id,)) < 15, "they were meant to share a transaction"
    assert [answer.status for answer in answers] == [200] * 13 + [500] + [200] * 16
    problem = answers[13].problem(500, "internal-error")
    assert "poison" not in str(problem)
    assert await bob.balance() == 30
    ledger.assert_ledger_balances(service.database_url)


async def test_many_contents_under_one_key_do_not_keep_everybody_waiting(service: Service) -> None:
    holder, alice, bob = await funded(service, "10"), await funded(service, "10"), await service.register()
    async with batch_held_back(service, holder):
        held = asyncio.create_task(holder.pay(bob, "1"))
        await until_blocked(service.database_url)
        tasks = [
            asyncio.create_task(alice.pay(bob, str(1000 + number), key="key")) for number in range(ROUNDS_MAX + 20)
        ]
        (await service.get("/health")).ok()
    answers = await asyncio.gather(*tasks)
    (await held).ok()
    # Each is judged in a batch of its own: together they would make one batch of all these rounds.
    assert {answer.status for answer in answers} == {402}
    (await alice.pay(bob, "1", key="key")).ok()


async def test_two_poisonous_orders_harm_only_themselves(service: Service) -> None:
    await ledger.alter(service.database_url, REFUSE_POISON.format(sqlstate="22000"))
    alice, bob = await funded(service, "100"), await service.register()
    answers = await asyncio.gather(
        *(alice.pay(bob, "1", comment="poison" if number in (3, 17) else "fine") for number in range(20))
    )
    assert [number for number, answer in enumerate(answers) if answer.status != 200] == [3, 17]
    for number in (3, 17):
        answers[number].problem(500)
    ledger.assert_ledger_balances(service.database_url)


async def test_a_poisonous_order_burns_no_key(service: Service) -> None:
    await ledger.alter(service.database_url, REFUSE_POISON.format(sqlstate="P0001"))
    alice, bob = await funded(service, "100"), await service.register()
    (await alice.pay(bob, "1", comment="poison", key="rent")).problem(500)
    await ledger.alter(service.database_url, "DROP TRIGGER refuse_poison ON transfers")
    (await alice.pay(bob, "1", comment="poison", key="rent")).ok()
    assert await bob.balance() == 1


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03"])
async def test_an_order_that_meets_a_busy_database_again_and_again_is_503(service: Service, sqlstate: str) -> None:
    await ledger.alter(service.database_url, REFUSE_POISON.format(sqlstate=sqlstate))
    alice, bob = await funded(service, "100"), await service.register()
    answers = await asyncio.gather(
        *(alice.pay(bob, "1", comment="poison" if number == 5 else "fine") for number in range(10))
    )
    assert [answer.status for answer in answers] == [200] * 5 + [503] + [200] * 4
    answers[5].problem(503, "database-busy")
    ledger.assert_ledger_balances(service.database_url)


# Sessions of others that get in the way


async def test_a_lock_held_for_a_moment_delays_and_harms_nobody(service: Service) -> None:
    alice, bob = await funded(service, "100"), await service.register()
    with ledger_session(service.database_url) as session:
        with session.cursor() as cursor:
            cursor.execute("UPDATE accounts SET amount = amount WHERE id = %s", (alice.accounts["USD"],))
        payment = asyncio.create_task(alice.pay(bob, "10"))
        await until_blocked(service.database_url)
        session.commit()
    (await payment).ok()
    ledger.assert_ledger_balances(service.database_url)


@pytest.mark.parametrize(("change", "status"), [("95", 200), ("-4", 402)])
async def test_a_balance_that_another_is_changing_is_judged_as_it_will_be(
    service: Service, change: str, status: int
) -> None:
    alice, bob = await funded(service, "5"), await service.register()
    amount = "90" if status == 200 else "4"
    with ledger_session(service.database_url) as session:
        with session.cursor() as cursor:
            book(cursor, alice.accounts["USD"], change)
        payment = asyncio.create_task(alice.pay(bob, amount))
        await until_blocked(service.database_url)
        session.commit()
    assert (await payment).status == status
    ledger.assert_ledger_balances(service.database_url)


def book(cursor: psycopg2.extensions.cursor, account_id: int, change: str) -> None:
    """Books a deposit, or a withdrawal where `change` is negative, in the cursor's transaction."""
    cursor.execute("SELECT id FROM accounts WHERE id < 0 AND currency_id = 'USD'")
    [(external,)] = cursor.fetchall()
    amount = Decimal(change)
    source, target = (external, account_id) if amount > 0 else (account_id, external)
    cursor.execute(
        """
        WITH booked_order AS (
            INSERT INTO orders (id, user_id, fingerprint, status, accepted_at, posted_at)
            VALUES (gen_random_uuid(), 1, '', 'posted', now(), now()) RETURNING id
        )
        INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
        SELECT id, 'deposit', %s, %s, %s, 'By hand' FROM booked_order
        """,
        (source, target, abs(amount)),
    )
    cursor.execute("UPDATE accounts SET amount = amount - %s WHERE id = %s", (abs(amount), source))
    cursor.execute("UPDATE accounts SET amount = amount + %s WHERE id = %s", (abs(amount), target))


async def test_a_lock_held_for_long_is_503_and_books_nothing(service: Service) -> None:
    alice, bob = await funded(service, "100"), await service.register()
    with ledger_session(service.database_url) as session:
        with session.cursor() as cursor:
            cursor.execute("SELECT 1 FROM accounts WHERE id = %s FOR UPDATE", (alice.accounts["USD"],))
        async with asyncio.timeout(3):
            answer = await alice.pay(bob, "10", key="rent")
        answer.problem(503)
        assert booked_payments(service) == 0
        # Reading waits for no lock.
        assert await alice.balance() == 100
    (await alice.pay(bob, "10", key="rent")).ok()
    assert await bob.balance() == 10
    ledger.assert_ledger_balances(service.database_url)


async def test_a_deadlock_is_tried_again(database_url: str, settings: Settings, start_service: StartService) -> None:
    # The service's sessions are the ones that notice it: the other session looks for one only after ten seconds. They
    # look once, so that by then it must be there.
    administration = make_dsn(database_url, user=ADMINISTRATOR)
    name = psycopg2.extensions.parse_dsn(database_url)["dbname"]
    ledger.query(administration, f"ALTER DATABASE {name} SET deadlock_timeout = '300ms'")
    service = await start_service(settings)
    alice, bob = await funded(service, "100"), await service.register()
    first, second = sorted((alice.accounts["USD"], bob.accounts["USD"]))
    lock = "SELECT 1 FROM accounts WHERE id = %s FOR UPDATE"
    with ledger_session(administration) as session, session.cursor() as cursor:
        cursor.execute("SET deadlock_timeout = '10s'")
        cursor.execute(lock, (second,))
        payment = asyncio.create_task(alice.pay(bob, "10"))
        await until_blocked(database_url)
        # Granted only because the service gave up what it held; gone before it looks who is in its way.
        await asyncio.to_thread(cursor.execute, f"{lock}; COMMIT", (first,))
    (await payment).ok()
    assert await bob.balance() == 10
    ledger.assert_ledger_balances(database_url)


async def test_a_serialisation_failure_is_tried_again(service: Service) -> None:
    # Raised by the first two attempts of an order: a sequence counts them, for it is not rolled back.
    await ledger.alter(
        service.database_url,
        """
        CREATE SEQUENCE attempts;
        CREATE FUNCTION fail_twice() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN
            IF nextval('attempts') <= 2 THEN
                RAISE EXCEPTION 'could not serialize access' USING ERRCODE = 'serialization_failure';
            END IF;
            RETURN NULL;
        END
        $$;
        CREATE TRIGGER fail_twice AFTER INSERT ON orders FOR EACH STATEMENT EXECUTE FUNCTION fail_twice();
        """,
    )
    alice, bob = await service.register(), await service.register()
    await ledger.alter(service.database_url, "ALTER TABLE orders DISABLE TRIGGER fail_twice")
    ledger.deposit(service.database_url, alice.accounts["USD"], "100")
    await ledger.alter(service.database_url, "ALTER TABLE orders ENABLE TRIGGER fail_twice")
    (await alice.pay(bob, "10")).ok()
    assert ledger.value(service.database_url, "SELECT last_value FROM attempts") == 3
    assert booked_payments(service) == 1
    ledger.assert_ledger_balances(service.database_url)


async def test_a_failure_at_commit_books_nothing_and_is_judged_by_its_code(service: Service) -> None:
    # Deferred to COMMIT, where only a code tells that certainly nothing was booked.
    await ledger.alter(
        service.database_url,
        """
        CREATE FUNCTION refuse_late() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.comment = 'poison' THEN
                RAISE EXCEPTION 'late' USING ERRCODE = 'check_violation';
            END IF;
            RETURN NULL;
        END
        $$;
        CREATE CONSTRAINT TRIGGER refuse_late AFTER INSERT ON transfers
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_late();
        """,
    )
    alice, bob = await funded(service, "100"), await service.register()
    answers = await asyncio.gather(
        *(alice.pay(bob, "1", comment="poison" if number == 5 else "fine") for number in range(10))
    )
    assert [answer.status for answer in answers] == [200] * 5 + [500] + [200] * 4
    assert await bob.balance() == 9
    ledger.assert_ledger_balances(service.database_url)


async def test_clients_that_leave_change_nothing(service: Service, seed: int) -> None:
    dice = random.Random(seed)
    alice, bob = await funded(service, "1000"), await service.register()

    async def pay_and_leave(key: str) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(dice.random() * 0.05):
                await alice.pay(bob, "1", key=key)

    keys = [f"key-{number}" for number in range(100)]
    await asyncio.gather(*(pay_and_leave(key) for key in keys))
    answers: list[Any] = await asyncio.gather(*(alice.pay(bob, "1", key=key) for key in keys))
    assert statuses(answers) == {200: 100}
    assert booked_payments(service) == 100
    ledger.assert_ledger_balances(service.database_url)


async def test_what_pays_no_commission_does_not_wait_for_the_commission_account(service: Service) -> None:
    alice, bob = await funded(service, "100", "1", "100"), await service.register()
    savings = await alice.open_account("USD")
    with ledger_session(service.database_url) as session:
        with session.cursor() as cursor:
            cursor.execute("SELECT 1 FROM accounts WHERE user_id = 1 AND currency_id = 'USD' FOR UPDATE")
        (await alice.transfer(alice.accounts["USD"], savings, "10")).ok()
        (await alice.pay(bob, "1000")).problem(402)
        (await alice.pay(bob, "10", "EUR")).ok()
        session.rollback()
    (await alice.pay(bob, "10")).ok()
