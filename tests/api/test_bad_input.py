"""Bad input, all of it, on every field that takes it: a 4xx problem that names the field, and nothing booked.

The service and its database are shared by this module: a request that is refused leaves nothing behind, and each
test checks that.
"""

from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests import ledger
from tests.client import PASSWORD, Caller, Service
from tests.conftest import register_apart

AMOUNTS = [
    "-1",
    "+1",
    "0",
    "0.00",
    "-0",
    "nan",
    "NaN",
    "sNaN",
    "inf",
    "Infinity",
    "-inf",
    "1e2",
    "1E-2",
    "0x10",
    "1_000",
    "1 000",
    " 1",
    "1 ",
    "1\n",
    "1\0",
    "١٠",
    "1,5",
    "1.",
    ".5",
    ".",
    "1.2.3",
    "0.001",
    "10.000",
    "1" + "0" * 30,
    "1000000000000.01",
    "1000000000001",
    "9" * 5000,
    "0." + "0" * 5000 + "1",
    "",
    "ten",
    "$1",
    "½",
    "true",
    "null",
]

IDS = [
    "",
    "x",
    "me",
    "-1",
    "+1",
    "1.0",
    "1e0",
    "0x1",
    " 1",
    "1\n",
    "1\0",
    "١",
    "1_0",
    str(2**63),
    str(2**64),
    "9" * 5000,
    "null",
    "1;DROP TABLE accounts",
]

USERNAMES = [
    "",
    " ",
    "vasya\n",
    "\nvasya",
    "vasya\r",
    "vasya\t",
    "va sya",
    "vasya\0",
    "\0",
    "va:sya",
    "vasya:",
    "вася",
    "vasya١",
    "vasyа",
    "va/sya",
    "va\\sya",
    "va'sya",
    'va"sya',
    "va%sya",
    "va+sya",
    "va;sya",
    "<vasya>",
    "va\u200bsya",
    "va\u2028sya",
    "x" * 65,
    "x" * 10_000,
    "me",
    "Me",
    "ME",
    ".",
    "..",
]

PASSWORDS = ["", "short", "1234567", "nul\0nul nul", "line\nfeed feed", "x" * 257, "x" * 10_000, "\x7f" * 8]

# How a client spells the same text: in a form, as a JSON string.
SPELLINGS = ["form", "json"]


@pytest.fixture(scope="module")
def shared_alice(shared_base_url: str, shared_database_url: str) -> Caller:
    """A user with a lot of money in each currency."""
    caller = register_apart(shared_base_url, shared_database_url, "alice")
    for account_id in caller.accounts.values():
        ledger.deposit(shared_database_url, account_id, "2000000000000")
    return caller


@pytest.fixture(scope="module")
def shared_bob(shared_base_url: str, shared_database_url: str) -> Caller:
    """Somebody to pay."""
    return register_apart(shared_base_url, shared_database_url, "bob")


@pytest.fixture
async def alice(shared_alice: Caller, shared_service: Service) -> Caller:
    """The one who sends what is refused."""
    return shared_alice.at(shared_service)


@pytest.fixture
async def bob(shared_bob: Caller, shared_service: Service) -> Caller:
    """The one who would be paid."""
    return shared_bob.at(shared_service)


@pytest.fixture(autouse=True)
def nothing_is_booked(shared_alice: Caller, shared_bob: Caller, shared_database_url: str) -> Iterator[None]:
    """Asserts after each test that the books are as they were before it."""
    before = ledger.counts(shared_database_url)
    yield
    assert ledger.counts(shared_database_url) == before


async def refused(caller: Caller, path: str, fields: dict[str, str], spelling: str, field: str) -> None:
    if spelling == "form":
        body = "&".join(f"{name}={quote(text, safe='')}" for name, text in fields.items()).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await caller.post(path, body=body, headers=headers)
    else:
        answer = await caller.post(path, document=fields)
    answer.problem(400, field=field)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("amount", AMOUNTS, ids=lambda text: ascii(text)[:20])
async def test_what_is_no_amount_is_refused(alice: Caller, bob: Caller, amount: str, spelling: str) -> None:
    fields = {"from": str(alice.accounts["USD"]), "to": str(bob.accounts["USD"]), "amount": amount}
    await refused(alice, f"/users/{alice.id}/transfers", fields, spelling, "amount")


@pytest.mark.parametrize(
    "amount",
    ["-1", "0", "0.0", "-0", "1e2", "1E2", "1e-2", "0.001", "10.000", "1" + "0" * 30, "9" * 5000, "NaN", "Infinity",
     "-Infinity", "true", "null", "[]", "{}", "[1]", "1e400", "1e-400", "100000000000000000000000000e-24"],
    ids=lambda text: text[:20],
)  # fmt: skip
async def test_a_json_number_is_read_as_it_is_written(alice: Caller, bob: Caller, amount: str) -> None:
    body = f'{{"from": {alice.accounts["USD"]}, "to": {bob.accounts["USD"]}, "amount": {amount}}}'
    answer = await alice.post(
        f"/users/{alice.id}/transfers", body=body.encode(), headers={"Content-Type": "application/json"}
    )
    answer.problem(400, field="amount")


@pytest.mark.parametrize("amount", ["01", "1.", ".5", "+1", "0x10", "1_000", "1,5", "nan", "-", "١٠", "--1"])
async def test_what_is_no_number_of_jsons_is_no_json(alice: Caller, bob: Caller, amount: str) -> None:
    body = f'{{"from": {alice.accounts["USD"]}, "to": {bob.accounts["USD"]}, "amount": {amount}}}'
    answer = await alice.post(
        f"/users/{alice.id}/transfers", body=body.encode(), headers={"Content-Type": "application/json"}
    )
    answer.problem(400)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("field", ["from", "to"])
@pytest.mark.parametrize("account_id", IDS, ids=lambda text: ascii(text)[:20])
async def test_what_is_no_id_is_refused(alice: Caller, bob: Caller, account_id: str, field: str, spelling: str) -> None:
    fields = {"from": str(alice.accounts["USD"]), "to": str(bob.accounts["USD"]), "amount": "1"}
    await refused(alice, f"/users/{alice.id}/transfers", fields | {field: account_id}, spelling, field)


@pytest.mark.parametrize("field", ["from", "to", "amount"])
async def test_a_missing_or_repeated_field_is_refused(alice: Caller, bob: Caller, field: str) -> None:
    fields = {"from": str(alice.accounts["USD"]), "to": str(bob.accounts["USD"]), "amount": "1"}
    pairs = [f"{name}={text}" for name, text in fields.items()]
    without = [pair for pair in pairs if not pair.startswith(field)]
    for body in (without, [*pairs, f"{field}={fields[field]}"], [*pairs, f"{field}="]):
        answer = await alice.post(
            f"/users/{alice.id}/transfers",
            body="&".join(body).encode(),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
        answer.problem(400, field=field)


@pytest.mark.parametrize("field", ["fee", "user_id", "id", "currency_id", "From", "from_account_id", "commission", ""])
async def test_an_unknown_field_is_refused(alice: Caller, bob: Caller, field: str) -> None:
    fields = {"from": str(alice.accounts["USD"]), "to": str(bob.accounts["USD"]), "amount": "1", field: "1"}
    answer = await alice.post(f"/users/{alice.id}/transfers", document=fields)
    assert answer.problem(400)["field"] == field


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("comment", ["x" * 256, "nul\0", "x" * 10_000], ids=["256", "NUL", "10 kB"])
async def test_what_is_no_comment_is_refused(alice: Caller, bob: Caller, comment: str, spelling: str) -> None:
    fields = {"from": str(alice.accounts["USD"]), "to": str(bob.accounts["USD"]), "amount": "1", "comment": comment}
    await refused(alice, f"/users/{alice.id}/transfers", fields, spelling, "comment")


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("username", USERNAMES, ids=lambda text: ascii(text)[:20])
async def test_what_is_no_username_is_refused(alice: Caller, username: str, spelling: str) -> None:
    await refused(alice, "/users", {"username": username, "password": PASSWORD}, spelling, "username")


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("password", PASSWORDS, ids=lambda text: ascii(text)[:20])
async def test_what_is_no_password_is_refused(alice: Caller, password: str, spelling: str) -> None:
    await refused(alice, "/users", {"username": "carol", "password": password}, spelling, "password")


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("full_name", ["nul\0", "x" * 10_000], ids=["NUL", "10 kB"])
async def test_what_is_no_full_name_is_refused(alice: Caller, full_name: str, spelling: str) -> None:
    fields = {"username": "carol", "password": PASSWORD, "full_name": full_name}
    await refused(alice, "/users", fields, spelling, "full_name")


@pytest.mark.parametrize("body", [b"\xff", b"amount=\xff", b"from=%ff&to=1&amount=1", b"\xed\xa0\x80=1", b"from=\xc3("])
async def test_bad_utf_8_is_refused(alice: Caller, body: bytes) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert "field" in (await alice.post(f"/users/{alice.id}/transfers", body=body, headers=headers)).problem(400)


@pytest.mark.parametrize("path_id", ["x", "-1", str(2**63), "9" * 5000, "1.0", "%00", "%0A", "1%0A", "%D9%A1"])
async def test_what_is_no_id_in_a_path_is_not_found(alice: Caller, path_id: str) -> None:
    for path in (f"/users/{path_id}/transfers", f"/users/{path_id}/accounts", f"/accounts/{path_id}"):
        (await alice.get(path)).problem(404)
    form = {"from": alice.accounts["USD"], "to": alice.accounts["EUR"], "amount": 1}
    (await alice.post(f"/users/{path_id}/transfers", form=form)).problem(404)
