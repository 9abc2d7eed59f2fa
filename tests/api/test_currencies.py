"""GET /currencies."""

from decimal import Decimal

from tests.client import Service


async def test_lists_the_currencies_in_the_order_of_creation(service: Service) -> None:
    answer = await service.get("/currencies")
    assert answer.ok() == [
        {"id": "USD", "description": "United States Dollar", "commission": Decimal("0.01"), "decimals": 2},
        {"id": "CNY", "description": "Chinese Yuan", "commission": Decimal("0.02"), "decimals": 2},
        {"id": "EUR", "description": "Euro", "commission": Decimal("0.03"), "decimals": 2},
    ]


async def test_members_stand_in_the_documented_order(service: Service) -> None:
    answer = await service.get("/currencies")
    assert answer.text.startswith('[{"id":"USD","description":"United States Dollar","commission":0.01,"decimals":2}')


async def test_needs_no_credentials_and_looks_at_none(service: Service) -> None:
    answer = await service.get("/currencies", authorization="Basic nonsense")
    assert len(answer.ok()) == 3


async def test_nothing_lies_beneath(service: Service) -> None:
    (await service.get("/currencies/111")).problem(404, "not-found")


async def test_a_head_request_has_the_headers_and_no_body(service: Service) -> None:
    answer = await service.request("HEAD", "/currencies")
    assert answer.status == 200
    assert answer.body == b""
    answer.has_common_headers()


async def test_registered(service: Service) -> None:
    a = await service.register()
    b = await service.register()
    assert a.id != b.id
