"""Users of a test, and how they come to be."""

from collections.abc import Sequence

import aiohttp

from .payments import Person, credentials

SUPERUSER_PASSWORD = "the superuser's password"


def the_superuser() -> Person:
    """The superuser, who spends what commissions bring in."""
    return Person(1, "superuser", SUPERUSER_PASSWORD, {1: "USD", 2: "CNY", 3: "EUR"})


async def register_people(base_url: str, names: Sequence[str]) -> list[Person]:
    """Registers users; every third of them opens a second account in USD, to pay to and from their own."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        return [
            await _register(session, base_url, name, second_account=number % 3 == 0)
            for number, name in enumerate(names)
        ]


async def _register(session: aiohttp.ClientSession, base_url: str, name: str, *, second_account: bool) -> Person:
    person = {"username": name, "password": f"password of {name}"}
    async with session.post(f"{base_url}/users", data=person) as response:
        assert response.status == 201, await response.text()
        user_id = (await response.json())["id"]
    headers = credentials(name, person["password"])
    if second_account:
        async with session.post(f"{base_url}/users/{user_id}/accounts/USD", headers=headers) as response:
            assert response.status == 200, await response.text()
    async with session.get(f"{base_url}/users/{user_id}/accounts", headers=headers) as response:
        assert response.status == 200, await response.text()
        accounts = {row["id"]: row["currency_id"] for row in await response.json()}
    return Person(user_id, name, person["password"], accounts)
