"""A client that openapi-python-client generates: registers, pays, pages, and meets what goes wrong."""

import base64
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from tests.client import PASSWORD

from .conftest import Outage

PACKAGE = "generated_client"
SECONDS_MAX = 60
# CSV is a file to this generator, and what it writes is not formatted.
CONFIGURATION = {"content_type_overrides": {"text/csv": "application/octet-stream"}, "post_hooks": []}


@pytest.fixture(scope="module", autouse=True)
def _client(openapi_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Generates the client, without a warning, as a package that can be imported."""
    folder = tmp_path_factory.mktemp("client")
    configuration = folder / "configuration.json"
    configuration.write_text(json.dumps(CONFIGURATION))
    generate = [sys.executable, "-m", "openapi_python_client", "generate", "--path", str(openapi_file)]
    generate += ["--output-path", str(folder / PACKAGE), "--meta", "none", "--config", str(configuration)]
    run = subprocess.run(
        [*generate, "--fail-on-warning"], capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]


def model(name: str) -> Any:
    """A class of the client."""
    return getattr(importlib.import_module(f"{PACKAGE}.models"), name)


async def call(client: Any, operation: str, *path: Any, **options: Any) -> Any:
    """Calls an operation, as `tag.name`; an answer that the document does not know raises."""
    async with client.with_headers({}) as opened:
        response = await importlib.import_module(f"{PACKAGE}.api.{operation}").asyncio_detailed(
            *path, client=opened, **options
        )
    assert response.parsed is not None or response.status_code == HTTPStatus.NO_CONTENT
    return response


class Person:
    """A user and their client."""

    def __init__(self, base_url: str, username: str) -> None:
        made = importlib.import_module(PACKAGE)
        self._anonymous = made.Client(base_url=base_url, raise_on_unexpected_status=True)
        credentials = base64.b64encode(f"{username}:{PASSWORD}".encode()).decode()
        self.client = made.AuthenticatedClient(
            base_url=base_url, token=credentials, prefix="Basic", raise_on_unexpected_status=True
        )
        self.username = username
        self.id = 0
        self.dollars = 0

    async def register(self) -> "Person":
        """Registers, in JSON, and finds their account."""
        form = model("UserForm")(username=self.username, password=PASSWORD, full_name=None)
        user = (await call(self._anonymous, "users.post_user", body=form)).parsed
        assert isinstance(user, model("UserBody"))
        assert user.full_name == "Unknown"
        self.id = user.id
        accounts = (await call(self.client, "accounts.list_accounts", self.id)).parsed
        (self.dollars,) = [account.id for account in accounts if account.currency_id == "USD"]
        return self

    async def pay(self, payee: "Person", amount: str, *, form: str = "TransferForm", **options: Any) -> Any:
        """Pays dollars."""
        body = model(form)(from_=self.dollars, to=payee.dollars, amount=amount)
        return await call(self.client, "transfers.post_transfer", self.id, body=body, **options)

    async def deposit(self, value: str) -> Any:
        """Deposits, or withdraws what is below 0."""
        body = model("BalanceForm")(user_id=self.id, value=value)
        return await call(self.client, "balances.post_balance", body=body)


async def people(outage: Outage) -> tuple[Person, Person]:
    """One with 100 dollars and one without."""
    anna = await Person(outage.service.base_url, "anna").register()
    boris = await Person(outage.service.base_url, "boris").register()
    assert isinstance((await anna.deposit("100")).parsed, model("BalanceBody"))
    return anna, boris


async def test_it_pays_and_pages(outage: Outage) -> None:
    anna, boris = await people(outage)
    receipts = [(await anna.pay(boris, "1.50", idempotency_key="rent")).parsed for _ in range(2)]
    assert receipts[0] == receipts[1]
    assert isinstance(receipts[0], model("ReceiptBody"))
    assert (receipts[0].balance, receipts[0].status.value) == (98.48, "posted")
    assert [transfer.kind.value for transfer in receipts[0].transfers] == ["payment", "commission"]
    as_form = model("TransferFormText")(from_=anna.dollars, to=boris.dollars, amount=2.5, comment="")
    assert isinstance(
        (await call(anna.client, "transfers.post_transfer", anna.id, body=as_form)).parsed, model("ReceiptBody")
    )

    page = await call(anna.client, "transfers.list_transfers", anna.id, limit=3)
    assert 'rel="next"' in page.headers["Link"]
    rest = await call(anna.client, "transfers.list_transfers", anna.id, limit=3, after=page.parsed[-1].id)
    assert "Link" not in rest.headers
    assert [len(page.parsed), len(rest.parsed)] == [3, 2]


async def test_it_has_a_token_and_reads_who_it_is(outage: Outage) -> None:
    anna, _ = await people(outage)
    made = importlib.import_module(PACKAGE)
    anonymous = made.Client(base_url=outage.service.base_url, raise_on_unexpected_status=True)
    form = model("TokenForm")(username="anna", password=PASSWORD)
    token = (await call(anonymous, "tokens.post_token", body=form)).parsed
    bearer = made.AuthenticatedClient(base_url=outage.service.base_url, token=token.access_token)
    me = (await call(bearer, "me.get_me")).parsed
    assert (me.username, me.password, me.id) == ("anna", None, str(anna.id))
    assert (await call(anonymous, "currencies.list_currencies")).parsed[0].id == "USD"


async def test_it_pays_many_times(outage: Outage) -> None:
    anna, boris = await people(outage)
    transfers = [
        model("BulkTransferForm")(from_=anna.dollars, to=boris.dollars, amount=amount) for amount in ("1", 1000)
    ]
    form = model("BulkForm")(mode=model("BulkFormMode")("each"), transfers=transfers)
    receipt, problem = (await call(anna.client, "bulk.post_transfers", anna.id, body=form)).parsed
    assert isinstance(receipt, model("ReceiptBody"))
    assert isinstance(problem, model("Problem"))
    assert problem.status == HTTPStatus.PAYMENT_REQUIRED


async def test_it_reads_problems(outage: Outage) -> None:
    anna, boris = await people(outage)
    await anna.pay(boris, "1", idempotency_key="rent")
    reused = await anna.pay(boris, "2", idempotency_key="rent")
    assert (reused.status_code, reused.parsed.type_) == (422, "/problems/idempotency-key-reused")
    refused = await anna.pay(boris, "1000")
    assert (refused.status_code, refused.parsed.type_) == (402, "/problems/insufficient-funds")
    withdrawal = await anna.deposit("-1000")
    assert withdrawal.status_code == HTTPStatus.PAYMENT_REQUIRED
    assert withdrawal.parsed.detail == "Not enough funds (98.99) for a -1000.00 transaction!"
    stranger = await call(anna.client, "accounts.list_accounts", boris.id)
    assert (stranger.status_code, stranger.parsed.type_) == (403, "/problems/forbidden")


async def test_it_gets_over_an_outage(outage: Outage) -> None:
    anna, boris = await people(outage)
    await outage.begin()

    pending = await anna.pay(boris, "1.50", idempotency_key="rent")
    assert pending.status_code == HTTPStatus.ACCEPTED
    assert isinstance(pending.parsed, model("PendingBody"))
    assert (pending.parsed.balance, pending.parsed.transfers[0].id) == (98.48, None)
    assert (await anna.pay(boris, "1000")).status_code == HTTPStatus.PAYMENT_REQUIRED
    deposit = (await anna.deposit("2")).parsed
    assert isinstance(deposit, model("OfflineBalanceBody"))
    assert deposit.detail.balance == 100.48
    withdrawal = await anna.deposit("-1000")
    assert isinstance(withdrawal.parsed, model("RefusedBalanceBody"))
    assert withdrawal.parsed.detail.message == "Not enough funds (100.48) for a -1000.00 transaction!"
    history = await call(anna.client, "transfers.list_transfers", anna.id)
    assert (history.status_code, int(history.headers["Retry-After"]) > 0) == (503, True)
    assert isinstance(history.parsed, model("Problem"))

    await outage.end()
    receipt = (await anna.pay(boris, "1.50", idempotency_key="rent")).parsed
    assert isinstance(receipt, model("ReceiptBody"))
    order = (await call(anna.client, "orders.get_order", anna.id, str(receipt.order_id))).parsed
    assert (order.status.value, order.order_id) == ("posted", pending.parsed.order_id)
