"""GET /users/{user_id}/transfers: the history, narrowed, sorted, by pages."""

import asyncio
import re
from dataclasses import replace
from decimal import Decimal
from ipaddress import ip_network
from typing import Any

import pytest

from aiopypay.settings import Settings
from aiopypay.statements import Connection
from aiopypay.store import history
from tests import ledger
from tests.client import Answer, Caller, Service
from tests.conftest import SUPERUSER_PASSWORD, StartService, with_credit


@pytest.fixture
async def service(start_service: StartService, settings: Settings) -> Service:
    """A service that gives each new user 1000 dollars and 1000 euros."""
    return await start_service(with_credit(settings, USD="1000", EUR="1000"))


def ids(answer: Answer) -> list[int]:
    return [transfer["id"] for transfer in answer.ok()]


def next_page(answer: Answer) -> str | None:
    link = answer.headers.get("Link")
    if link is None:
        return None
    match = re.fullmatch(r'<([^>]*)>; rel="next"', link)
    assert match, link
    return match[1]


async def pages(caller: Caller, **query: Any) -> list[list[dict[str, Any]]]:
    """Follows the Link header to the end."""
    answer = await caller.history(**query)
    collected = [answer.ok()]
    while (following := next_page(answer)) is not None:
        assert len(collected) < 1000, "the pages never end"
        answer = await caller.get(following)
        collected.append(answer.ok())
    return collected


async def internal_transfers(caller: Caller, number: int) -> list[int]:
    """Books that many transfers between two accounts of the caller and returns their ids in order."""
    savings = await caller.open_account("USD")
    answers = await asyncio.gather(*(caller.transfer(caller.accounts["USD"], savings, "0.01") for _ in range(number)))
    return sorted(answer.ok()["transfers"][0]["id"] for answer in answers)


async def test_a_transfer_is_listed_as_it_was_receipted(service: Service) -> None:
    alice, bob = await service.register(), await service.register()
    receipt = (await alice.pay(bob, "10", comment="rent")).ok()
    assert (await alice.history()).ok() == receipt["transfers"]


async def test_the_payee_sees_the_payment_but_not_the_payers_commission(service: Service) -> None:
    alice, bob = await service.register(), await service.register()
    payment, _ = (await alice.pay(bob, "10")).ok()["transfers"]
    assert (await bob.history()).ok() == [payment]


async def test_the_superuser_sees_the_commission(service: Service) -> None:
    alice, bob, superuser = (
        await service.register(),
        await service.register(),
        await service.superuser(SUPERUSER_PASSWORD),
    )
    _, commission = (await alice.pay(bob, "10")).ok()["transfers"]
    assert (await superuser.history()).ok() == [commission]


async def test_the_opening_balance_is_not_listed(service: Service) -> None:
    alice = await service.register()
    assert await alice.balance() == 1000
    assert (await alice.history()).ok() == []
    assert (await alice.history(sort="dsc")).ok() == []
    assert (await alice.history(to_=alice.id)).ok() == []


async def test_deposits_are_listed(service: Service) -> None:
    alice = await service.register()
    ledger.deposit(service.database_url, alice.accounts["USD"], "5")
    [transfer] = (await alice.history()).ok()
    assert (transfer["kind"], transfer["amount"]) == ("deposit", Decimal("5.00"))
    assert ids(await alice.history(to_=alice.id)) == [transfer["id"]]


async def test_a_transfer_between_ones_own_accounts_is_listed_once(service: Service) -> None:
    alice = await service.register()
    booked = await internal_transfers(alice, 3)
    assert ids(await alice.history()) == booked
    assert ids(await alice.history(sort="dsc")) == booked[::-1]
    assert ids(await alice.history(from_=alice.id, to_=alice.id)) == booked


async def test_the_order_is_by_id_ascending_unless_asked_otherwise(service: Service) -> None:
    alice, bob = await service.register(), await service.register()
    for payer, payee in ((alice, bob), (bob, alice), (alice, bob)):
        (await payer.pay(payee, "1")).ok()
    ascending = ids(await alice.history())
    assert ascending == sorted(ascending)
    assert ids(await alice.history(sort="asc")) == ascending
    assert ids(await alice.history(sort="dsc")) == ascending[::-1]


async def test_accounts_of_all_currencies_are_in_one_list(service: Service) -> None:
    alice, bob = await service.register(), await service.register()
    (await alice.pay(bob, "1", "USD")).ok()
    (await alice.pay(bob, "1", "EUR")).ok()
    assert [str(transfer["amount"]) for transfer in (await alice.history()).ok()] == ["1.00", "0.01", "1.00", "0.03"]


async def test_from_and_to_narrow_by_user(service: Service) -> None:
    alice, bob, carol = [await service.register() for _ in range(3)]
    to_bob = (await alice.pay(bob, "1")).ok()["transfers"]
    to_carol = (await alice.pay(carol, "2")).ok()["transfers"]
    from_bob = (await bob.pay(alice, "3")).ok()["transfers"][0]
    paid = [transfer["id"] for transfer in (*to_bob, *to_carol)]
    assert ids(await alice.history(from_=alice.id)) == paid
    assert ids(await alice.history(to_=bob.id)) == [to_bob[0]["id"]]
    assert ids(await alice.history(to_=alice.id)) == [from_bob["id"]]
    assert ids(await alice.history(from_=bob.id)) == [from_bob["id"]]
    assert ids(await alice.history(from_=alice.id, to_=carol.id)) == [to_carol[0]["id"]]
    assert ids(await alice.history(from_=bob.id, to_=alice.id)) == [from_bob["id"]]
    assert ids(await alice.history(to_=1)) == [to_bob[1]["id"], to_carol[1]["id"]]
    assert ids(await alice.history(from_=alice.id, sort="dsc")) == paid[::-1]


async def test_narrowing_never_shows_what_is_between_others(service: Service) -> None:
    alice, bob, carol = [await service.register() for _ in range(3)]
    (await bob.pay(carol, "1")).ok()
    for query in ({"from_": bob.id}, {"to_": carol.id}, {"from_": bob.id, "to_": carol.id}, {"to_": 1}, {"from_": 1}):
        assert ids(await alice.history(**query)) == []
    assert ids(await alice.history(from_=10**9)) == []


async def test_only_the_user_reads_their_history(service: Service) -> None:
    alice, bob = await service.register(), await service.register()
    (await bob.get(f"/users/{alice.id}/transfers")).problem(403, "forbidden")
    (await service.get(f"/users/{alice.id}/transfers")).problem(401, "not-authenticated")


@pytest.mark.parametrize("sort", ["asc", "dsc"])
@pytest.mark.parametrize("limit", [1, 3, 4, 5, 11, 12, 1000])
async def test_pages_lead_to_the_end_without_gap_or_repetition(service: Service, sort: str, limit: int) -> None:
    alice, bob = await service.register(), await service.register()
    expected: list[int] = []
    for payer, payee in ((alice, bob), (bob, alice), (alice, bob), (bob, alice), (alice, bob)):
        transfers = (await payer.pay(payee, "1")).ok()["transfers"]
        expected += [transfer["id"] for transfer in transfers if payer is alice or transfer["kind"] == "payment"]
    collected = await pages(alice, sort=sort, limit=limit)
    assert [transfer["id"] for page in collected for transfer in page] == (
        expected if sort == "asc" else expected[::-1]
    )
    assert all(len(page) == limit for page in collected[:-1])
    assert 1 <= len(collected[-1]) <= limit, "no page is empty"


async def test_narrowed_pages_stay_narrowed(service: Service) -> None:
    alice, bob, carol = [await service.register() for _ in range(3)]
    wanted = []
    for _ in range(5):
        wanted.append((await alice.pay(bob, "1")).ok()["transfers"][0]["id"])
        (await alice.pay(carol, "1")).ok()
    collected = await pages(alice, from_=alice.id, to_=bob.id, sort="dsc", limit=2)
    assert [[transfer["id"] for transfer in page] for page in collected] == [
        wanted[:2:-1],
        wanted[2:0:-1],
        wanted[:1],
    ]


async def test_what_is_booked_meanwhile_neither_shifts_nor_repeats_anything(service: Service) -> None:
    alice = await service.register()
    before = await internal_transfers(alice, 6)
    ascending, descending = await alice.history(limit=4), await alice.history(limit=4, sort="dsc")
    between = await internal_transfers(alice, 2)
    following = next_page(ascending)
    assert following is not None
    assert ids(await alice.get(following)) == (before + between)[4:]
    following = next_page(descending)
    assert following is not None
    assert ids(await alice.get(following)) == before[1::-1]


async def test_a_page_has_100_unless_asked_otherwise_and_never_more_than_1000(service: Service) -> None:
    alice = await service.register()
    booked = await internal_transfers(alice, 101)
    first = await alice.history()
    assert ids(first) == booked[:100]
    following = next_page(first)
    assert following is not None
    assert ids(await alice.get(following)) == booked[100:]
    assert ids(await alice.history(limit=1000)) == booked
    assert next_page(await alice.history(limit=101)) is None


async def test_the_last_page_names_no_next(service: Service) -> None:
    alice = await service.register()
    await internal_transfers(alice, 2)
    assert next_page(await alice.history(limit=2)) is None
    assert next_page(await alice.history(limit=3)) is None
    assert next_page(await alice.history(limit=1)) is not None


async def test_the_next_page_is_a_url_of_the_host_that_was_asked(service: Service) -> None:
    alice = await service.register()
    await internal_transfers(alice, 2)
    path = f"/users/{alice.id}/transfers?sort=asc&limit=1&after="
    for host, begins in {
        service.base_url.removeprefix("http://"): service.base_url,
        "shop.example": "http://shop.example",
        "[::1]:8080": "http://[::1]:8080",
        # Nobody's name, so there is no URL to tell.
        'a>; rel="next", <b': "",
        "a b": "",
        "": "",
    }.items():
        following = next_page(await alice.get(f"/users/{alice.id}/transfers?limit=1", headers={"Host": host}))
        assert following is not None
        assert following.startswith(begins + path), host
        assert following.removeprefix(begins + path).isdigit()
    forwarded = {"X-Forwarded-Host": "shop.example", "X-Forwarded-Proto": "https", "Forwarded": "host=shop.example"}
    assert (next_page(await alice.get(f"/users/{alice.id}/transfers?limit=1", headers=forwarded)) or "").startswith(
        service.base_url
    )


@pytest.mark.parametrize(
    ("headers", "begins"),
    [
        ({"X-Forwarded-Host": "shop.example", "X-Forwarded-Proto": "https"}, "https://shop.example/users/"),
        ({"X-Forwarded-Host": "shop.example:8443"}, "http://shop.example:8443/users/"),
        ({"X-Forwarded-Proto": "http, https", "Host": "shop.example"}, "https://shop.example/users/"),
        ({"Forwarded": "proto=https;host=evil.example", "Host": "shop.example"}, "http://shop.example/users/"),
        ({"X-Forwarded-Proto": "javascript", "Host": "shop.example"}, "http://shop.example/users/"),
        ({"X-Forwarded-Host": "a b"}, "/users/"),
    ],
)
async def test_behind_a_trusted_proxy_it_is_the_proxys(
    start_service: StartService, settings: Settings, headers: dict[str, str], begins: str
) -> None:
    proxied = replace(with_credit(settings, USD="10"), trusted_proxies=(ip_network("127.0.0.0/8"),))
    alice = await (await start_service(proxied)).register()
    await internal_transfers(alice, 2)
    assert (next_page(await alice.get(f"/users/{alice.id}/transfers?limit=1", headers=headers)) or "").startswith(
        begins
    )


async def test_after_is_exclusive_in_both_directions(service: Service) -> None:
    alice = await service.register()
    booked = await internal_transfers(alice, 3)
    assert ids(await alice.history(after=booked[1])) == booked[2:]
    assert ids(await alice.history(after=booked[1], sort="dsc")) == booked[:1]
    assert ids(await alice.history(after=0)) == booked
    assert ids(await alice.history(after=2**63 - 1)) == []
    # What has no value was not sent.
    assert ids(await alice.history(limit="", sort="", after="")) == booked


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=10&limit=10", "limit"),
        ("limit=%D9%A1", "limit"),
        ("sort=desc", "sort"),
        ("sort=ASC", "sort"),
        ("from=me", "from"),
        ("from=9223372036854775808", "from"),
        ("from=" + "9" * 5000, "from"),
        ("from=1&from=1", "from"),
        ("to=-1", "to"),
        ("to=1%00", "to"),
        ("to=1%0A", "to"),
        ("to=%ff", "to"),
        ("after=x", "after"),
        ("after=1.5", "after"),
        ("offset=10", "offset"),
        ("From=1", "From"),
    ],
)
async def test_a_malformed_query_is_refused_by_name(service: Service, query: str, field: str) -> None:
    alice = await service.register()
    (await alice.get(f"/users/{alice.id}/transfers?{query}")).problem(400, "invalid-request", field=field)


async def test_a_page_misses_nothing_that_is_booked_while_it_is_read(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who goes on behind its last transfer has seen all before it, those of an account opened meanwhile, too."""
    alice, bob = await service.register(), await service.register()
    (await alice.pay(bob, "1")).ok()
    read = history._accounts

    async def read_and_wait(connection: Connection, user_id: int, after: int) -> list[int]:
        found = await read(connection, user_id, after)
        monkeypatch.setattr(history, "_accounts", read)
        savings = await alice.open_account("USD")
        (await bob.transfer(bob.accounts["USD"], savings, "1")).ok()
        (await alice.pay(bob, "1")).ok()
        return found

    monkeypatch.setattr(history, "_accounts", read_and_wait)
    page = ids(await alice.history())
    booked = ids(await alice.history())
    assert page == booked[: len(page)]
    assert len(booked) > len(page)
