"""The checker finds what is planted: each test damages a sound ledger in one way, as only a superuser can."""

import asyncio
import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from psycopg2.extensions import connection as PgConnection  # noqa: N812 - a class with a lower-case name

from .beside import Beside
from .changes import SEEN_SECONDS, Activity, Changes, Correction, Outage, Rate
from .checker import violations
from .draws import EVERYTHING
from .ledger import TransferRow, read_ledger
from .load import Load
from .newcomers import Newcomers, Registration
from .operating import Operator
from .payments import Answer, Opening, Payment, Read, accounts_path
from .people import register_people, the_superuser
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
    beside: Beside
    # A payment with commission that its client knows to be booked.
    booked: TransferRow


@pytest.fixture(scope="module")
def history(cluster: PostgresServer) -> Iterator[History]:
    """Some payments, by the real service."""
    cluster.start()
    cluster.new_database()
    service = ServiceProcess(cluster.dsn)

    async def pay() -> tuple[Sequence[Payment], Beside]:
        service.start()
        await service.wait_ready()
        people = [the_superuser(), *await register_people(service.base_url, ["anna", "bert", "cleo", "dora"])]
        beside = Beside(newcomers=Newcomers(service.base_url))
        newcomers, generator = beside.newcomers, random.Random(SEED)
        assert newcomers is not None
        kinds = {"correct", "rate in SQL", "rate by the API"}
        operator = Operator(cluster, service.base_url, people, kinds, beside.changes)
        load = Load(
            service.base_url, people, SEED, mix=dataclasses.replace(EVERYTHING, large_bulks=0), payees=newcomers.people
        )
        async with load.running(), newcomers.living(load, generator), operator.working(generator):
            await eventually(lambda: load.answered(200) >= PAYMENTS and load.answered(402) > 0, 30, "payments")
            await eventually(lambda: _is_rich(load.payments), 30, "payments of each kind")
            await eventually(lambda: bool(newcomers.people and beside.changes.corrections), 30, "what is beside them")
        await load.resolve()
        await service.terminate()
        beside.reads, beside.openings = load.reads, load.openings
        return load.payments, beside

    try:
        payments, beside = asyncio.run(pay())
        yield History(cluster, payments, beside, _a_known_payment(cluster, payments))
    finally:
        service.remove()


@pytest.fixture
def damaged(history: History) -> Iterator[Callable[..., list[str]]]:
    """Executes statements with triggers and constraints out of the way; returns what the checker finds then."""
    with history.postgres.connected(administrator=True) as connection:
        connection.autocommit = False
        _disarm(connection)

        def damage(
            *statements: str, also: Sequence[Payment] = (), nodes: int = 1, beside: Beside = history.beside
        ) -> list[str]:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
            return violations(read_ledger(connection), [*history.payments, *also], nodes=nodes, beside=beside)

        yield damage
        connection.rollback()


@pytest.fixture
def booked(history: History) -> TransferRow:
    """A payment with commission that its client knows to be booked."""
    return history.booked


def _is_rich(payments: Sequence[Payment]) -> bool:
    """Whether there is what the tests damage."""
    receipts = {payment.kind for payment in payments if payment.answers and payment.answers[0].status == 200}
    bulks = [payment.bulk for payment in payments if payment.bulk and payment.acknowledgement]
    return len(receipts) == 3 and any(bulk.mode == "all" and len(bulk.payments) > 1 for bulk in bulks)


def _a_known_payment(postgres: PostgresServer, payments: Sequence[Payment]) -> TransferRow:
    with postgres.connected() as connection:
        ledger = read_ledger(connection)
    known = {
        payment.comment
        for payment in payments
        if payment.acknowledgement and payment.key and payment.payer.id != 1 and payment.kind == "transfer"
    }
    charged = {transfer.order_id for transfer in ledger.transfers if transfer.kind == "commission"}
    candidates = [
        transfer
        for transfer in ledger.transfers
        if transfer.kind == "payment" and transfer.comment in known and transfer.order_id in charged
    ]
    return random.Random(SEED).choice(candidates)


def _disarm(connection: PgConnection) -> None:
    with connection.cursor() as cursor:
        for table in ("accounts", "orders", "transfers", "users"):
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
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
        if payment.acknowledgement and len(payment.acknowledgement.body.get("transfers", ())) == 2
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


def _with_balance(answer: Answer, more: str) -> Answer:
    return dataclasses.replace(answer, body=answer.body | {"balance": answer.body["balance"] + Decimal(more)})


@pytest.mark.parametrize("kind", ["transfer", "deposit", "withdrawal"])
def test_a_receipt_that_told_a_wrong_balance_is_found(
    damaged: Callable[..., list[str]], history: History, kind: str
) -> None:
    payment = next(one for one in history.payments if one.kind == kind and one.answers[0].status == 200)
    before, payment.answers = payment.answers, [_with_balance(payment.answers[0], "0.01")]
    found = damaged()
    payment.answers = before

    assert [line for line in found if f"payment {payment.comment} got the receipt" in line]


def test_a_deposit_booked_twice_is_found(damaged: Callable[..., list[str]], history: History) -> None:
    deposit = next(one for one in history.payments if one.kind == "deposit" and one.acknowledgement)
    assert deposit.acknowledgement is not None
    again, order_id = "00000000-0000-4000-8000-000000000003", deposit.acknowledgement.body["order_id"]
    found = damaged(
        f"""
        INSERT INTO orders
        SELECT '{again}', user_id, idempotency_key, fingerprint, status, accepted_at, posted_at, reason, NULL
        FROM orders WHERE id = '{order_id}'
        """,
        f"""
        INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
        SELECT '{again}', kind, from_account_id, to_account_id, amount, comment
        FROM transfers WHERE order_id = '{order_id}'
        """,
        _balances("+", again),
    )

    assert any(f"payment {deposit.comment} was booked 2 times" in line for line in found), found


def test_a_bulk_that_is_booked_in_part_is_found(damaged: Callable[..., list[str]], history: History) -> None:
    bulk = next(
        one.bulk
        for one in history.payments
        if one.bulk and one.bulk.mode == "all" and len(one.bulk.payments) > 1 and one.acknowledgement
    )
    acknowledgement = bulk.payments[1].acknowledgement
    assert acknowledgement is not None
    order_id = acknowledgement.body["order_id"]
    found = damaged(_balances("-", order_id), f"DELETE FROM transfers WHERE order_id = '{order_id}'")

    assert [line for line in found if line.startswith("invariant 3") and "sent together" in line]
    assert [line for line in found if f"payment {bulk.payments[1].comment} was acknowledged" in line and "LOST" in line]


def _beside(history: History, **changes: Any) -> Beside:
    return dataclasses.replace(
        history.beside, changes=Changes(corrections=history.beside.changes.corrections, **changes)
    )


def _sent(payment: Payment) -> int:
    return min(answer.started for answer in payment.answers)


def _certain(change: Any) -> Any:
    change.ended, change.ended_at = change.started, 0.0
    return change


def test_a_commission_by_a_rate_that_did_not_hold_is_found(
    damaged: Callable[..., list[str]], history: History, booked: TransferRow
) -> None:
    payment = next(one for one in history.payments if one.comment == booked.comment)
    currency_id = payment.payer.accounts[payment.account_id]
    other = _certain(Rate(_sent(payment) - 1, currency_id, Decimal("0.5")))
    found = damaged(beside=_beside(history, rates=[*history.beside.changes.rates, other]))

    assert [line for line in found if line.startswith(f"invariant 3: order {booked.order_id}")]


@pytest.mark.parametrize("seen", [True, False], ids=["long before", "too late to be seen"])
def test_a_payment_by_a_user_who_was_deactivated_is_found_where_it_was_long_before(
    damaged: Callable[..., list[str]], history: History, booked: TransferRow, seen: bool
) -> None:
    payment = next(one for one in history.payments if one.comment == booked.comment)
    change = _certain(Activity(_sent(payment) - 1, payment.payer.id, is_active=False))
    again = _certain(Activity(payment.answers[-1].ended + 1, payment.payer.id, is_active=True))
    # The round began at 0, and in it the database was lost.
    outage = Outage(0, change.ended_at + (SEEN_SECONDS + 1 if seen else 0))
    rates = history.beside.changes.rates
    found = damaged(beside=_beside(history, activities=[change, again], outages=[outage], rates=rates))

    is_told = f"payment {payment.comment} of user {payment.payer.id}, who was deactivated, was answered 200"
    assert bool([line for line in found if is_told in line]) is seen


def test_a_payment_that_was_refused_for_what_was_taken_in_sql_too_late_to_be_seen_is_a_named_exception(
    damaged: Callable[..., list[str]], history: History, accepted: Payment
) -> None:
    taken = _certain(Correction(1, ACCEPTED_ID, accepted.account_id, Decimal(-1)))
    sums = Changes(
        [*history.beside.changes.corrections, taken], rates=history.beside.changes.rates, outages=[Outage(0, 0)]
    )
    unseen = dataclasses.replace(history.beside, changes=sums)
    sums.corrections[-1].ended = None
    assert [line for line in damaged(_refuse(accepted), also=[accepted], beside=unseen) if "refused" in line] == []

    sums.outages[:] = [Outage(0, 2 * SEEN_SECONDS)]
    taken.ended_at = 0.0
    found = damaged(also=[accepted], beside=unseen)
    assert [line for line in found if line.startswith(f"invariant 11: payment {accepted.comment}")]


def test_a_correction_that_is_lost_is_found(damaged: Callable[..., list[str]], history: History) -> None:
    lost = _certain(Correction(1, ACCEPTED_ID, 4, Decimal(1)))
    changes = dataclasses.replace(history.beside.changes, corrections=[*history.beside.changes.corrections, lost])
    found = damaged(beside=dataclasses.replace(history.beside, changes=changes))

    assert f"invariant 4: the operator's order {ACCEPTED_ID} is LOST" in found


def test_a_correction_that_nobody_made_is_found(damaged: Callable[..., list[str]], history: History) -> None:
    assert history.beside.changes.corrections
    changes = dataclasses.replace(history.beside.changes, corrections=[])
    found = damaged(beside=dataclasses.replace(history.beside, changes=changes))

    assert [line for line in found if "('Correction') was sent by nobody" in line]


def test_a_registration_that_is_lost_is_found(damaged: Callable[..., list[str]], history: History) -> None:
    newcomers = Newcomers("")
    newcomers.registrations.append(Registration("nobody", Answer(1, 2, 201)))
    found = damaged(beside=dataclasses.replace(history.beside, newcomers=newcomers))

    assert "invariant 4: nobody registered and is LOST" in found


def test_an_account_that_a_list_lacks_is_found(damaged: Callable[..., list[str]], history: History) -> None:
    person = history.payments[0].payer
    read = Read(person, accounts_path(person), Answer(1, 2, 200), {})
    found = damaged(beside=dataclasses.replace(history.beside, reads=[read]))

    assert [line for line in found if "does not list the accounts" in line]


def test_an_account_that_was_opened_and_is_lost_is_found(damaged: Callable[..., list[str]], history: History) -> None:
    opening = Opening(history.payments[0].payer, "USD", "a key", [Answer(1, 2, 200, {"id": 4_711})])
    found = damaged(beside=dataclasses.replace(history.beside, openings=[*history.beside.openings, opening]))

    assert [line for line in found if "key a key was told to have opened {4711}" in line]
