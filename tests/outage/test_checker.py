"""The checker finds what is planted: each test damages a sound ledger in one way, as only a superuser can."""

import asyncio
import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

import pytest
from psycopg2.extensions import connection as PgConnection  # noqa: N812 - a class with a lower-case name

from .checker import violations
from .ledger import TransferRow, read_ledger
from .load import Answer, Load, Payment, register_people
from .postgres import PostgresServer
from .service import ServiceProcess
from .waiting import eventually

SEED = 20_240_229
PAYMENTS = 150


@dataclass(frozen=True)
class History:
    """A sound ledger, and what its clients know."""

    postgres: PostgresServer
    payments: Sequence[Payment]
    # A payment with commission that its client knows to be booked.
    booked: TransferRow


@pytest.fixture(scope="module")
def history(cluster: PostgresServer) -> Iterator[History]:
    """Some payments, by the real service."""
    cluster.start()
    cluster.new_database()
    service = ServiceProcess(cluster.dsn)

    async def pay() -> Sequence[Payment]:
        service.start()
        await service.wait_ready()
        people = await register_people(service.base_url, ["anna", "bert", "cleo", "dora"])
        load = Load(service.base_url, people, SEED)
        async with load.running():
            await eventually(lambda: load.answered(200) >= PAYMENTS and load.answered(402) > 0, 30, "payments")
        await load.resolve()
        await service.terminate()
        return load.payments

    try:
        payments = asyncio.run(pay())
        yield History(cluster, payments, _a_known_payment(cluster, payments))
    finally:
        service.remove()


@pytest.fixture
def damaged(history: History) -> Iterator[Callable[..., list[str]]]:
    """Executes statements with triggers and constraints out of the way; returns what the checker finds then."""
    with history.postgres.connected(administrator=True) as connection:
        connection.autocommit = False
        _disarm(connection)

        def damage(*statements: str, also: Sequence[Payment] = (), nodes: int = 1) -> list[str]:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
            return violations(read_ledger(connection), [*history.payments, *also], nodes=nodes)

        yield damage
        connection.rollback()


@pytest.fixture
def booked(history: History) -> TransferRow:
    """A payment with commission that its client knows to be booked."""
    return history.booked


def _a_known_payment(postgres: PostgresServer, payments: Sequence[Payment]) -> TransferRow:
    with postgres.connected() as connection:
        ledger = read_ledger(connection)
    known = {payment.comment for payment in payments if payment.acknowledgement and payment.key}
    candidates = [transfer for transfer in ledger.transfers if transfer.kind == "payment" and transfer.comment in known]
    return random.Random(SEED).choice(candidates)


def _disarm(connection: PgConnection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("ALTER TABLE accounts DROP CONSTRAINT accounts_amount_not_negative")
        cursor.execute("ALTER TABLE orders DROP CONSTRAINT orders_user_id_idempotency_key_key")


def _balances(sign: str, order_id: str) -> str:
    """Books (+) or takes back (-) an order's transfers in the balances, so that sums and balances show nothing."""
    return f"""
        UPDATE accounts SET amount = amount {sign} change FROM (
            SELECT account_id, sum(change) AS change FROM (
                SELECT to_account_id AS account_id, amount AS change FROM transfers WHERE order_id = '{order_id}'
                UNION ALL
                SELECT from_account_id, -amount FROM transfers WHERE order_id = '{order_id}'
            ) AS moved GROUP BY account_id
        ) AS changes WHERE account_id = accounts.id
    """


def test_a_sound_ledger_has_no_violations(damaged: Callable[..., list[str]]) -> None:
    assert damaged("SELECT 1") == []


def test_a_lost_payment_is_found(damaged: Callable[..., list[str]], booked: TransferRow) -> None:
    found = damaged(
        _balances("-", booked.order_id),
        f"DELETE FROM transfers WHERE order_id = '{booked.order_id}'",
        f"DELETE FROM orders WHERE id = '{booked.order_id}'",
    )

    assert any(booked.comment in line and "LOST" in line for line in found), found


def test_a_payment_booked_twice_is_found(damaged: Callable[..., list[str]], booked: TransferRow) -> None:
    again = "00000000-0000-4000-8000-000000000001"
    found = damaged(
        f"""
        INSERT INTO orders
        SELECT '{again}', user_id, idempotency_key, fingerprint, status, accepted_at, posted_at, reason, NULL
        FROM orders WHERE id = '{booked.order_id}'
        """,
        f"""
        INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
        SELECT '{again}', kind, from_account_id, to_account_id, amount, comment
        FROM transfers WHERE order_id = '{booked.order_id}' ORDER BY id
        """,
        _balances("+", again),
    )

    assert any(f"payment {booked.comment} was booked 2 times" in line for line in found), found


def test_a_negative_balance_is_found(damaged: Callable[..., list[str]], booked: TransferRow) -> None:
    found = damaged(
        f"UPDATE accounts SET amount = -0.01 WHERE id = {booked.from_account_id}",
    )

    assert f"invariant 2: account {booked.from_account_id} holds -0.01" in found


def test_a_balance_that_was_negative_for_a_moment_is_found(
    damaged: Callable[..., list[str]], booked: TransferRow
) -> None:
    found = damaged(
        f"UPDATE transfers SET amount = amount + 100000 WHERE id = {booked.id}",
        f"""
        INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
        VALUES ('{booked.order_id}', 'deposit', {booked.to_account_id}, {booked.from_account_id}, 100000, 'back')
        """,
    )

    assert any(line.startswith(f"invariant 2: account {booked.from_account_id} was at -") for line in found), found


def test_a_balance_that_differs_from_its_transfers_is_found(
    damaged: Callable[..., list[str]], booked: TransferRow
) -> None:
    found = damaged(
        f"UPDATE accounts SET amount = amount + 0.01 WHERE id = {booked.from_account_id}",
        f"UPDATE accounts SET amount = amount - 0.01 WHERE id = {booked.to_account_id}",
    )

    assert [line for line in found if line.startswith(f"invariant 1: account {booked.from_account_id} holds")]
    assert not [line for line in found if "sum to" in line]


def test_money_from_nowhere_is_found(damaged: Callable[..., list[str]], booked: TransferRow) -> None:
    found = damaged(f"UPDATE accounts SET amount = amount + 0.01 WHERE id = {booked.from_account_id}")

    assert [line for line in found if "sum to 0.01" in line]


def test_a_commission_that_is_missing_is_found(damaged: Callable[..., list[str]], booked: TransferRow) -> None:
    found = damaged(f"DELETE FROM transfers WHERE order_id = '{booked.order_id}' AND kind = 'commission'")

    assert [line for line in found if line.startswith(f"invariant 3: order {booked.order_id}")]


def test_a_commission_in_another_currency_is_found(damaged: Callable[..., list[str]], booked: TransferRow) -> None:
    found = damaged(
        f"""
        UPDATE transfers SET to_account_id = to_account_id % 3 + 1
        WHERE order_id = '{booked.order_id}' AND kind = 'commission'
        """
    )

    assert [line for line in found if line.startswith(f"invariant 3: order {booked.order_id}")]


def test_a_payment_that_was_refused_and_booked_is_found(
    damaged: Callable[..., list[str]], history: History, booked: TransferRow
) -> None:
    refused = next(payment for payment in history.payments if payment.refusal)
    found = damaged(f"UPDATE transfers SET comment = '{refused.comment}' WHERE id = {booked.id}")

    assert [line for line in found if f"payment {refused.comment} was refused and is booked" in line]


def test_a_payment_that_nobody_sent_is_found(damaged: Callable[..., list[str]], booked: TransferRow) -> None:
    found = damaged(f"UPDATE transfers SET comment = 'a stranger' WHERE id = {booked.id}")

    assert [line for line in found if "'a stranger'" in line and "sent by nobody" in line]


def test_a_receipt_that_differs_from_the_ledger_is_found(
    damaged: Callable[..., list[str]], booked: TransferRow
) -> None:
    found = damaged(f"UPDATE orders SET balance = balance + 1 WHERE id = '{booked.order_id}'")

    assert [line for line in found if f"payment {booked.comment} got the receipt" in line]
    assert [line for line in found if f"order {booked.order_id} says balance" in line]


ACCEPTED_ID = "00000000-0000-4000-8000-000000000002"


@pytest.fixture
def accepted(history: History) -> Payment:
    """A payment that was accepted without the database (202)."""
    like = next(payment for payment in history.payments if payment.key)
    answer = Answer(started=1, ended=2, status=202, body={"order_id": ACCEPTED_ID, "status": "pending"})
    return dataclasses.replace(like, comment="accepted offline", key="accepted-offline", answers=[answer])


def _refuse(payment: Payment) -> str:
    return f"""
        INSERT INTO orders (id, user_id, idempotency_key, fingerprint, status, accepted_at, reason)
        VALUES ('{ACCEPTED_ID}', {payment.payer.id}, '{payment.key}', '', 'refused', now(), 'Insufficient funds')
    """


def test_a_payment_that_was_accepted_and_never_booked_is_found(
    damaged: Callable[..., list[str]], accepted: Payment
) -> None:
    found = damaged(also=[accepted])

    assert [line for line in found if f"payment {accepted.comment} was acknowledged with 202 and is LOST" in line]


def test_a_payment_that_was_accepted_and_visibly_refused_is_sound_with_two_nodes(
    damaged: Callable[..., list[str]], accepted: Payment
) -> None:
    assert damaged(_refuse(accepted), also=[accepted], nodes=2) == []


def test_a_payment_that_was_accepted_and_refused_is_found_with_one_node(
    damaged: Callable[..., list[str]], accepted: Payment
) -> None:
    found = damaged(_refuse(accepted), also=[accepted])

    assert [line for line in found if line.startswith(f"invariant 11: payment {accepted.comment}")]


def test_an_outcome_that_is_shown_otherwise_is_found(damaged: Callable[..., list[str]], accepted: Payment) -> None:
    accepted.outcome = {"status": "posted", "reason": None}
    found = damaged(_refuse(accepted), also=[accepted], nodes=2)

    assert [line for line in found if f"payment {accepted.comment} is shown as" in line]


def test_a_balance_that_was_told_wrong_is_found(
    damaged: Callable[..., list[str]], history: History, booked: TransferRow
) -> None:
    payment = next(payment for payment in history.payments if payment.comment == booked.comment)
    told = Answer(started=1, ended=2, status=202, body={"order_id": booked.order_id, "balance": Decimal("0.07")})
    payment.answers.append(told)
    found = damaged("SELECT 1")
    payment.answers.remove(told)

    assert [line for line in found if f"payment {booked.comment} was told the balance 0.07" in line]


def test_a_payment_that_overtook_another_is_found(damaged: Callable[..., list[str]], history: History) -> None:
    """It goes to the end: everything adds up, but their clients know who came first."""
    known = [
        payment
        for payment in history.payments
        if payment.acknowledgement and len(payment.acknowledgement.body["transfers"]) == 2
    ]
    first = known[0]
    (order_id,) = {answer.body["order_id"] for answer in first.answers if answer.is_acknowledged}
    found = damaged(
        "ALTER TABLE transfers ALTER id DROP IDENTITY",
        f"UPDATE transfers SET id = id + 1000000 WHERE order_id = '{order_id}'",
    )

    assert [line for line in found if line.startswith("invariant 9") and f"before {first.comment}" in line]


def test_a_payment_with_money_of_another_is_found(damaged: Callable[..., list[str]], history: History) -> None:
    index, payment = next((index, one) for index, one in enumerate(history.payments) if one.acknowledgement)
    thief = dataclasses.replace(payment.payer, accounts={})
    history.payments[index].payer, before = thief, payment.payer
    found = damaged("SELECT 1")
    history.payments[index].payer = before

    assert [line for line in found if line.startswith(f"invariant 10: payment {payment.comment}")]


def test_a_payment_that_was_refused_after_a_receipt_is_found(
    damaged: Callable[..., list[str]], accepted: Payment
) -> None:
    receipt = dataclasses.replace(
        accepted.answers[0],
        status=200,
        body={"order_id": ACCEPTED_ID, "status": "posted", "balance": 1, "transfers": []},
    )
    accepted.answers.append(receipt)
    found = damaged(_refuse(accepted), also=[accepted])

    assert [line for line in found if "was answered 200 and then refused" in line]
