"""A currency that is not known where accounts in it are: older versions left it so."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiopypay.stand_in.known import SELECT_CURRENCIES
from aiopypay.stand_in.store import Store

from .caller import Told, account_in, call, pay
from .load import SUPERUSER_PASSWORD, credentials
from .proxy import Cut
from .shop import Shop

ACCOUNT = "SELECT id FROM accounts WHERE currency_id = 'XTS' AND user_id = 1"


class HalfKnown:
    """The shop, and the superuser's account in the currency that is not known."""

    def __init__(self, shop: Shop, account_id: int) -> None:
        self.shop = shop
        self.account_id = account_id

    async def get(self, path: str) -> Told:
        """Asks as the superuser."""
        return await call(self.shop.service.base_url, "GET", path, SUPERUSER)


SUPERUSER = credentials("superuser", SUPERUSER_PASSWORD)


@pytest.fixture
async def half_known(shop: Shop) -> AsyncIterator[HalfKnown]:
    shop.proxy.at_commit(Cut.AFTER_COMMIT)
    content = {"id": "XTS", "description": "For tests", "commission": "0.01", "decimals": "2"}
    made = await call(shop.service.base_url, "POST", "/currencies", SUPERUSER, content)
    assert (made.status, made.problem) == (503, "commit-in-doubt")
    await shop.is_online()
    await shop.service.wait_filled()
    await shop.take_database()
    await shop.service.terminate()
    _forget_currency(shop.service.data_dir / "stand-in")
    shop.service.start()
    await shop.service.wait_ready()
    [(account_id,)] = shop.postgres.execute(ACCOUNT)
    yield HalfKnown(shop, account_id)
    await shop.bring_database()
    await shop.is_online()


async def test_it_is_the_trouble_of_those_who_name_it_alone(half_known: HalfKnown) -> None:
    shop = half_known.shop
    told = await shop.send(
        "each", [shop.transfer("1"), {"from": shop.from_id, "to": half_known.account_id, "amount": "1"}]
    )
    assert [result["status"] for result in told.body] == ["pending", 400]
    own = account_in(shop.bert, "USD")
    for path in (f"/accounts/{half_known.account_id}", "/users/1/accounts"):
        assert (await half_known.get(path)).problem == "not-known-here"
    assert (await half_known.get("/api/balances/my")).status == 200
    # Of one batch.
    transfers = [{"from": payer, "to": own, "amount": 1} for payer in (half_known.account_id, 1)]
    body = json.dumps({"mode": "each", "transfers": transfers}).encode()
    headers = SUPERUSER | {"Content-Type": "application/json"}
    told = await call(shop.service.base_url, "POST", "/users/1/transfers/bulk", headers, body)
    assert [result["status"] for result in told.body] == [503, 402]
    deposit = {"user_id": "1", "value": "5", "account_id": str(half_known.account_id)}
    answer = await call(shop.service.base_url, "POST", "/api/balances", SUPERUSER, deposit)
    assert (answer.status, answer.problem) == (503, "not-known-here")
    assert (await pay(shop.service.base_url, shop.bert, own, shop.from_id, "1")).status == 202


def _forget_currency(directory: Path) -> None:
    store = Store.open(directory)
    with store.transaction(durable=True):
        rows = [row for row in store._rows("currencies", SELECT_CURRENCIES) if row[1] == "XTS"]
        store._write("DELETE FROM currencies WHERE position = ?", [(row[0],) for row in rows])
        store._remove("currencies", rows)
    store.close()
