"""POST /users/{user_id}/transfers."""

import re
from decimal import Decimal
from uuid import UUID

import pytest

from tests import ledger
from tests.client import Caller, Service
from tests.conftest import SUPERUSER_PASSWORD

RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

RATES = {"USD": Decimal("0.01"), "CNY": Decimal("0.02"), "EUR": Decimal("0.03")}


@pytest.fixture
async def alice(service: Service) -> Caller:
    """A user with 100.00 in each currency."""
    caller = await service.register("alice")
    for account_id in caller.accounts.values():
        ledger.deposit(service.database_url, account_id, "100")
    return caller


async def test_a_receipt_has_the_documented_members(alice: Caller, bob: Caller) -> None:
    receipt = (await alice.pay(bob, "10")).ok()
    assert list(receipt) == ["order_id", "status", "transfers", "balance"]
    assert receipt["status"] == "posted"
    assert receipt["balance"] == Decimal("89.90")
    payment, commission = receipt["transfers"]
    members = ["id", "order_id", "kind", "timestamp", "from_account_id", "to_account_id", "amount", "comment"]
    assert list(payment) == list(commission) == members
    assert payment["order_id"] == commission["order_id"] == receipt["order_id"] == str(UUID(receipt["order_id"]))
    assert payment["id"] < commission["id"]
    assert RFC_3339_UTC.fullmatch(payment["timestamp"])


async def test_a_payment_and_its_commission_are_booked(service: Service, alice: Caller, bob: Caller) -> None:
    payment, commission = (await alice.pay(bob, "10")).ok()["transfers"]
    superuser = await service.superuser(SUPERUSER_PASSWORD)
    assert (payment["kind"], payment["amount"], payment["comment"]) == ("payment", Decimal("10.00"), "External payment")
    assert (payment["from_account_id"], payment["to_account_id"]) == (alice.accounts["USD"], bob.accounts["USD"])
    assert (commission["kind"], commission["amount"], commission["comment"]) == (
        "commission",
        Decimal("0.10"),
        "Commission",
    )
    assert (commission["from_account_id"], commission["to_account_id"]) == (
        alice.accounts["USD"],
        superuser.accounts["USD"],
    )
    assert await alice.balance() == Decimal("89.90")
    assert await bob.balance() == Decimal("10.00")
    assert await superuser.balance() == Decimal("0.10")
    ledger.assert_ledger_balances(service.database_url)


async def test_amounts_are_written_with_the_currencys_decimals(alice: Caller, bob: Caller) -> None:
    text = (await alice.pay(bob, "10")).text
    assert '"amount":10.00,' in text
    assert '"amount":0.10,' in text
    assert text.endswith('"balance":89.90}')


@pytest.mark.parametrize("currency_id", ["USD", "CNY", "EUR"])
async def test_commission_goes_to_the_superusers_account_in_that_currency(
    service: Service, alice: Caller, bob: Caller, currency_id: str
) -> None:
    superuser = await service.superuser(SUPERUSER_PASSWORD)
    (await alice.pay(bob, "10", currency_id)).ok()
    for other_id, rate in RATES.items():
        assert await superuser.balance(other_id) == (10 * rate if other_id == currency_id else 0)
    assert await alice.balance(currency_id) == 90 - 10 * RATES[currency_id]
    assert await bob.balance(currency_id) == 10


@pytest.mark.parametrize(
    ("amount", "commission"), [("0.01", "0.01"), ("1", "0.01"), ("1.01", "0.02"), ("33.33", "0.34")]
)
async def test_commission_is_rounded_up(alice: Caller, bob: Caller, amount: str, commission: str) -> None:
    transfers = (await alice.pay(bob, amount)).ok()["transfers"]
    assert [str(transfer["amount"]) for transfer in transfers] == [f"{Decimal(amount):.2f}", commission]


async def test_between_accounts_of_one_user_there_is_no_commission(service: Service, alice: Caller) -> None:
    savings = await alice.open_account("USD")
    receipt = (await alice.transfer(alice.accounts["USD"], savings, "100")).ok()
    [transfer] = receipt["transfers"]
    assert (transfer["kind"], transfer["comment"]) == ("internal", "Internal transfer")
    assert receipt["balance"] == Decimal("0.00")
    assert ledger.balance(service.database_url, savings) == 100


async def test_the_superuser_pays_no_commission(service: Service, bob: Caller) -> None:
    superuser = await service.superuser(SUPERUSER_PASSWORD)
    ledger.deposit(service.database_url, superuser.accounts["USD"], "10")
    [payment] = (await superuser.pay(bob, "10")).ok()["transfers"]
    assert payment["kind"] == "payment"
    assert await superuser.balance() == 0
    ledger.assert_ledger_balances(service.database_url)


async def test_paying_the_superuser_costs_commission_like_any_payment(service: Service, alice: Caller) -> None:
    superuser = await service.superuser(SUPERUSER_PASSWORD)
    assert len((await alice.pay(superuser, "10")).ok()["transfers"]) == 2
    assert await superuser.balance() == Decimal("10.10")
    ledger.assert_ledger_balances(service.database_url)


async def test_a_comment_stands_on_the_payment(alice: Caller, bob: Caller) -> None:
    comment = "Обед 🍲 & <b>'\"%s %(x)s\\"
    payment, commission = (await alice.pay(bob, "10", comment=comment)).ok()["transfers"]
    assert payment["comment"] == comment
    assert commission["comment"] == "Commission"


async def test_a_comment_has_at_most_255_characters(alice: Caller, bob: Caller) -> None:
    comment = "ж" * 255
    assert (await alice.pay(bob, "1", comment=comment)).ok()["transfers"][0]["comment"] == comment
    assert (await alice.pay(bob, "1", comment="")).ok()["transfers"][0]["comment"] == "External payment"
    (await alice.pay(bob, "1", comment="ж" * 256)).problem(400, field="comment")


@pytest.mark.parametrize("amount", ["10", "10.0", "10.00", "010"])
@pytest.mark.parametrize("raw", ['"{}"', "{}"])
async def test_a_json_amount_is_a_number_or_a_string(alice: Caller, bob: Caller, amount: str, raw: str) -> None:
    if raw == "{}" and amount == "010":
        return  # no number of JSON's
    body = f'{{"from": {alice.accounts["USD"]}, "to": "{bob.accounts["USD"]}", "amount": {raw.format(amount)}}}'
    answer = await alice.post(
        f"/users/{alice.id}/transfers", body=body.encode(), headers={"Content-Type": "application/json"}
    )
    assert answer.ok()["balance"] == Decimal("89.90")


async def test_an_amount_of_json_never_passes_through_a_float(alice: Caller, bob: Caller) -> None:
    # The nearest float is the same as that of 0.1: only the raw text tells that this has too many decimals.
    body = f'{{"from": {alice.accounts["USD"]}, "to": {bob.accounts["USD"]}, "amount": 0.1000000000000000055511151231}}'
    answer = await alice.post(
        f"/users/{alice.id}/transfers", body=body.encode(), headers={"Content-Type": "application/json"}
    )
    answer.problem(400, field="amount")


async def test_a_balance_beyond_the_precision_of_floats_is_exact(service: Service, alice: Caller, bob: Caller) -> None:
    ledger.deposit(service.database_url, alice.accounts["USD"], "9007199254740893.01")
    answer = await alice.pay(bob, "0.01")
    assert '"balance":9007199254740992.99}' in answer.text


async def test_the_largest_amount_can_be_paid(service: Service, alice: Caller, bob: Caller) -> None:
    ledger.deposit(service.database_url, alice.accounts["USD"], "2000000000000")
    (await alice.pay(bob, "1000000000000")).ok()
    (await alice.pay(bob, "1000000000000.01")).problem(400, field="amount")
    assert await bob.balance() == 10**12


async def test_an_account_can_be_emptied_to_the_last_cent(service: Service, alice: Caller, bob: Caller) -> None:
    assert (await alice.pay(bob, "99")).ok()["balance"] == Decimal("0.01")
    (await alice.pay(bob, "0.01")).problem(402, "insufficient-funds")
    savings = await alice.open_account("USD")
    assert (await alice.transfer(alice.accounts["USD"], savings, "0.01")).ok()["balance"] == Decimal("0.00")


async def test_what_is_not_covered_with_its_commission_is_refused_and_books_nothing(
    service: Service, alice: Caller, bob: Caller
) -> None:
    before = ledger.counts(service.database_url)
    (await alice.pay(bob, "100")).problem(402, "insufficient-funds")
    (await alice.pay(bob, "99.01")).problem(402, "insufficient-funds")
    assert ledger.counts(service.database_url) == before


async def test_unknown_accounts_are_refused(service: Service, alice: Caller, bob: Caller) -> None:
    before = ledger.counts(service.database_url)
    nowhere = bob.accounts["EUR"] + 1000
    (await alice.transfer(nowhere, bob.accounts["USD"], "1")).problem(400, "unknown-account", field="from")
    (await alice.transfer(alice.accounts["USD"], nowhere, "1")).problem(400, "unknown-account", field="to")
    (await alice.transfer(0, 0, "1")).problem(400, field="from")
    assert ledger.counts(service.database_url) == before


async def test_external_accounts_cannot_be_named(service: Service, alice: Caller) -> None:
    external = ledger.value(service.database_url, "SELECT id FROM accounts WHERE id < 0 AND currency_id = 'USD'")
    (await alice.transfer(external, alice.accounts["USD"], "1")).problem(400, field="from")
    (await alice.transfer(alice.accounts["USD"], external, "1")).problem(400, field="to")


async def test_nobody_spends_what_is_anothers(service: Service, alice: Caller, bob: Caller) -> None:
    before = ledger.counts(service.database_url)
    (await bob.transfer(alice.accounts["USD"], bob.accounts["USD"], "1")).problem(403, "forbidden")
    form = {"from": alice.accounts["USD"], "to": bob.accounts["USD"], "amount": 1}
    (await bob.post(f"/users/{alice.id}/transfers", form=form)).problem(403, "forbidden")
    assert ledger.counts(service.database_url) == before


async def test_the_superuser_spends_nobodys_money_either(service: Service, alice: Caller) -> None:
    superuser = await service.superuser(SUPERUSER_PASSWORD)
    (await superuser.transfer(alice.accounts["USD"], superuser.accounts["USD"], "1")).problem(403)


async def test_a_transfer_to_itself_is_refused(alice: Caller) -> None:
    (await alice.transfer(alice.accounts["USD"], alice.accounts["USD"], "1")).problem(400, "same-account", field="to")


async def test_there_is_no_conversion(alice: Caller, bob: Caller) -> None:
    answer = await alice.transfer(alice.accounts["USD"], bob.accounts["EUR"], "1")
    answer.problem(400, "currency-mismatch", field="to")


async def test_refusals_come_in_the_documented_order(alice: Caller, bob: Caller) -> None:
    nowhere = bob.accounts["EUR"] + 1000
    mine, theirs = alice.accounts["USD"], bob.accounts["USD"]
    # Each line violates the guard it names and, where it can, all that follow.
    (await alice.transfer(theirs, theirs, "1.001")).problem(400, field="amount")
    (await alice.transfer(nowhere, nowhere, "1000")).problem(400, "unknown-account", field="from")
    (await alice.transfer(theirs, nowhere, "1000")).problem(400, "unknown-account", field="to")
    (await alice.transfer(theirs, theirs, "1000")).problem(403, "forbidden")
    (await alice.transfer(mine, mine, "1000")).problem(400, "same-account")
    (await alice.transfer(mine, bob.accounts["CNY"], "1000")).problem(400, "currency-mismatch")
    (await alice.transfer(mine, theirs, "1000")).problem(402, "insufficient-funds")
    (await alice.transfer(mine, theirs, "1")).ok()


async def test_payments_to_a_deactivated_user_land(service: Service, alice: Caller, bob: Caller) -> None:
    ledger.query(service.database_url, "UPDATE users SET is_active = FALSE WHERE id = %s", (bob.id,))
    (await alice.pay(bob, "10")).ok()
    assert ledger.balance(service.database_url, bob.accounts["USD"]) == 10


async def test_the_answer_names_where_the_order_is(alice: Caller, bob: Caller) -> None:
    answer = await alice.pay(bob, "10")
    assert answer.headers["Location"] == f"/users/{alice.id}/orders/{answer.ok()['order_id']}"


async def test_without_a_key_each_request_pays(alice: Caller, bob: Caller) -> None:
    receipts = [(await alice.pay(bob, "10")).ok() for _ in range(2)]
    assert receipts[0]["order_id"] != receipts[1]["order_id"]
    assert await bob.balance() == 20


async def test_a_currency_without_decimals_has_whole_amounts(service: Service, alice: Caller, bob: Caller) -> None:
    ledger.query(
        service.database_url,
        "INSERT INTO currencies (id, description, commission, decimals) VALUES ('JPY', 'Yen', 0.015, 0)",
    )
    ledger.query(service.database_url, "INSERT INTO accounts (user_id, currency_id) VALUES (1, 'JPY')")
    ledger.query(
        service.database_url,
        "INSERT INTO accounts (id, currency_id) SELECT -ordinal, id FROM currencies WHERE id = 'JPY'",
    )
    purse, target = await alice.open_account("JPY"), await bob.open_account("JPY")
    ledger.deposit(service.database_url, purse, "100")
    (await alice.transfer(purse, target, "10.0")).problem(400, field="amount")
    answer = await alice.transfer(purse, target, "10")
    assert '"amount":10,' in answer.text
    assert '"amount":1,' in answer.text
    assert answer.text.endswith('"balance":89}')
    ledger.assert_ledger_balances(service.database_url)


async def test_a_new_rate_holds_for_what_is_accepted_from_then_on(service: Service, alice: Caller, bob: Caller) -> None:
    (await alice.pay(bob, "10")).ok()
    ledger.query(service.database_url, "UPDATE currencies SET commission = 0.05 WHERE id = 'USD'")
    assert (await alice.pay(bob, "10")).ok()["balance"] == Decimal("79.40")
    ledger.query(service.database_url, "UPDATE currencies SET commission = 0 WHERE id = 'USD'")
    assert len((await alice.pay(bob, "10")).ok()["transfers"]) == 1
