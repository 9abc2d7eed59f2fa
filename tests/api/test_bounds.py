"""What users make is bounded, and so is what is read at once of what they have made."""

import asyncio
import re
import time
from dataclasses import replace

import pytest

from aiopypay import throttling
from aiopypay.errors import TooManyRequests
from aiopypay.settings import Settings
from aiopypay.store import administration, history
from aiopypay.throttling import Throttle
from tests import ledger
from tests.client import Answer, Caller, Service
from tests.conftest import StartService

ACCOUNTS_MAX = 6
HOARD = "INSERT INTO accounts (user_id, currency_id) SELECT {user_id}, 'USD' FROM generate_series(1, {number})"


@pytest.fixture
async def service(start_service: StartService, settings: Settings) -> Service:
    """One where a user may have 6 accounts, three of which they open with."""
    return await start_service(replace(settings, accounts_per_user_max=ACCOUNTS_MAX))


def next_page(answer: Answer) -> str | None:
    link = re.fullmatch(r'<([^>]*)>; rel="next"', answer.headers.get("Link", ""))
    return link[1] if link else None


async def pages(caller: Caller, path: str) -> list[list[int]]:
    """Follows the Link header to the end; returns the ids."""
    collected: list[list[int]] = []
    following: str | None = path
    while following is not None:
        answer = await caller.get(following)
        document = answer.ok()
        items = document if isinstance(document, list) else document["items"]
        collected.append([int(item["id"]) for item in items])
        following = next_page(answer)
        assert len(collected) < 100, "the pages never end"
    return collected


class TestAccounts:
    async def test_the_last_one_is_opened_once_however_many_ask(self, service: Service) -> None:
        caller = await service.register()
        path = f"/users/{caller.id}/accounts/USD"
        answers = await asyncio.gather(
            *(caller.post(path, key=None if number % 2 else f"key-{number}") for number in range(12))
        )
        refused = [answer for answer in answers if answer.status != 200]
        assert len(refused) == 12 - (ACCOUNTS_MAX - 3)
        for answer in refused:
            answer.problem(409, "too-many-accounts")
        assert len(await caller.list_accounts()) == ACCOUNTS_MAX

    async def test_a_refusal_does_not_burn_the_key_and_a_retry_is_answered_as_before(self, service: Service) -> None:
        caller = await service.register()
        path = f"/users/{caller.id}/accounts/USD"
        opened = [(await caller.post(path, key=key)).ok() for key in ("a", "b", "c")]
        (await caller.post(path, key="d")).problem(409, "too-many-accounts")
        (await caller.post(path)).problem(409, "too-many-accounts")
        assert [(await caller.post(path, key=key)).ok() for key in ("a", "b", "c")] == opened
        (await caller.post(f"/users/{caller.id}/accounts/XXX")).problem(400, "unknown-currency", field="currency_id")
        before = ledger.counts(service.database_url)
        (await caller.post(path, key="d")).problem(409)
        assert ledger.counts(service.database_url) == before
        # The key is free for something else.
        ledger.deposit(service.database_url, caller.accounts["USD"], "10")
        (await caller.transfer(caller.accounts["USD"], opened[0]["id"], "1", key="d")).ok()

    async def test_who_has_more_keeps_them(self, service: Service) -> None:
        caller, other = await service.register(), await service.register()
        ledger.query(service.database_url, HOARD.format(user_id=caller.id, number=600))
        (await caller.post(f"/users/{caller.id}/accounts/USD")).problem(409, "too-many-accounts")
        first, *_ = found = await pages(caller, f"/users/{caller.id}/accounts")
        assert [len(page) for page in found] == [100] * 6 + [3]
        last = found[-1][-1]
        assert first[:3] == list(caller.accounts.values())
        ledger.deposit(service.database_url, last, "10")
        payment = (await caller.transfer(last, other.accounts["USD"], "1")).ok()["transfers"]
        listed = (await caller.history()).ok()
        assert [transfer["kind"] for transfer in listed] == ["deposit", "payment", "commission"]
        assert (await caller.history(to_=other.id)).ok() == payment[:1]
        changed = {"current_password": caller.password, "password": "another long one"}
        (await caller.patch("/api/users/me", document=changed)).ok()

    async def test_they_are_listed_by_pages(self, service: Service) -> None:
        caller = await service.register()
        for _ in range(2):
            await caller.open_account("EUR")
        whole = [account["id"] for account in await caller.list_accounts()]
        assert await pages(caller, f"/users/{caller.id}/accounts?limit=2") == [whole[:2], whole[2:4], whole[4:]]
        assert await pages(caller, f"/users/{caller.id}/accounts?limit=5") == [whole]
        assert await pages(caller, f"/users/{caller.id}/accounts?after={whole[-1]}") == [[]]
        assert next_page(await caller.get(f"/users/{caller.id}/accounts")) is None

    @pytest.mark.parametrize("query", ["limit=0", "limit=1001", "after=x", "after=-1", "offset=1", "limit=1&limit=1"])
    async def test_a_malformed_query_is_refused_by_name(self, service: Service, query: str) -> None:
        caller = await service.register()
        (await caller.get(f"/users/{caller.id}/accounts?{query}")).problem(400, field=query.partition("=")[0])


async def test_there_are_no_more_currencies_than_a_user_may_have_accounts(service: Service, admin: Caller) -> None:
    form = {"description": "A", "commission": "0", "decimals": "2"}
    for currency_id in ("AAA", "AAB", "AAC"):
        (await admin.post("/currencies", form={"id": currency_id, **form})).ok(201)
    (await admin.post("/currencies", form={"id": "AAD", **form})).problem(409, "too-many-currencies")
    (await admin.post("/currencies", form={"id": "AAA", **form})).problem(409, "currency-exists")
    assert len((await service.register()).accounts) == ACCOUNTS_MAX


class TestHistory:
    @pytest.mark.parametrize("sort", ["asc", "dsc"])
    async def test_between_two_users_only_so_much_is_looked_through_at_once(
        self, service: Service, monkeypatch: pytest.MonkeyPatch, sort: str
    ) -> None:
        alice, bob, carol = [await service.register() for _ in range(3)]
        ledger.deposit(service.database_url, alice.accounts["USD"], "100")
        ledger.deposit(service.database_url, alice.accounts["EUR"], "100")
        ledger.deposit(service.database_url, carol.accounts["USD"], "100")
        to_bob = []
        for number in range(8):
            (await alice.pay(carol, "1", "USD" if number % 2 else "EUR")).ok()
            (await carol.pay(bob, "1")).ok()
            if number in (1, 7):
                to_bob.append((await alice.pay(bob, "1")).ok()["transfers"][0]["id"])
        wanted = to_bob if sort == "asc" else to_bob[::-1]
        path = f"/users/{alice.id}/transfers?to={bob.id}&sort={sort}"
        assert await pages(alice, path) == [wanted]
        monkeypatch.setattr(history, "LOOKED_THROUGH", 6)
        found = await pages(alice, path)
        assert len(found) > 2
        assert [row for page in found for row in page] == wanted
        found = await pages(bob, f"/users/{bob.id}/transfers?from={alice.id}&sort={sort}&limit=1")
        assert [row for page in found for row in page] == wanted


class TestUsers:
    async def test_sorted_by_id_there_is_always_a_next_page(
        self, service: Service, admin: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        users = [1, *[(await service.register()).id for _ in range(4)]]
        assert await pages(admin, "/api/users?limit=2") == [users[:2], users[2:4], users[4:]]
        assert await pages(admin, "/api/users?limit=4&desc=true&is_admin=false") == [users[:0:-1], []]
        monkeypatch.setattr(administration, "OFFSET_MAX", 2)
        (await admin.get("/api/users?offset=3")).problem(400, "invalid-request", field="offset")
        assert (await admin.get("/api/users?offset=5")).ok()["items"] == []
        assert await pages(admin, "/api/users?limit=2&offset=2") == [users[2:4], users[4:]]
        sorted_by_name = (await admin.get(f"/api/users?after={users[2]}&sort_by=username&desc=true")).ok()["items"]
        assert {int(item["id"]) for item in sorted_by_name} == set(users[:2])


def test_an_address_registers_so_many_users_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttling, "REGISTRATION_MINUTES_A_DAY", 2)
    now, minutes = time.monotonic(), 0
    monkeypatch.setattr(time, "monotonic", lambda: now + 61 * minutes)
    throttle = Throttle()
    for minutes in range(2):  # noqa: B007 - the clock reads it
        for _ in range(3):
            throttle.registration("192.0.2.1", 3)
    minutes = 3
    with pytest.raises(TooManyRequests) as refused:
        throttle.registration("192.0.2.1", 3)
    assert refused.value.retry_after_seconds > 3600
    throttle.registration("192.0.2.2", 3)
