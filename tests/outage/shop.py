"""Two users, a node, and its database, which it loses and finds again."""

import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from .caller import Told, account_in, balance, call, order, send_bulk
from .load import Person, register_people
from .postgres import PostgresServer
from .proxy import Proxy
from .service import NewService, ServiceProcess

SETTLING_SECONDS = 15

# A payment with this comment meets what the test has put in its way.
TRAP = "the trap"
SET_TRAP = """
CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a trap of this test' USING ERRCODE = '{sqlstate}';
END
$$;
CREATE TRIGGER trap BEFORE INSERT ON transfers FOR EACH ROW WHEN (NEW.comment = 'the trap') EXECUTE FUNCTION trap();
"""
REMOVE_TRAP = "DROP FUNCTION trap() CASCADE"


class Shop:
    """Two users, of whom the first pays the second; a node; and its database, which it loses and finds again.

    What a test does to the database in between comes before any settling.
    """

    def __init__(self, postgres: PostgresServer, proxy: Proxy, service: ServiceProcess, people: list[Person]) -> None:
        self.postgres = postgres
        self.proxy = proxy
        self.service = service
        self.anna, self.bert = people

    async def pay(self, amount: str, *, key: str | None = None, comment: str | None = None) -> Told:
        """Anna pays Bert in dollars."""
        data = {"from": str(self.from_id), "to": str(account_in(self.bert, "USD")), "amount": amount}
        return await call(
            self.service.base_url,
            "POST",
            f"/users/{self.anna.id}/transfers",
            self.anna.headers | ({"Idempotency-Key": key} if key else {}),
            data | ({"comment": comment} if comment else {}),
        )

    def transfer(self, amount: str, **members: str) -> dict[str, Any]:
        """The same payment, as one of a bulk."""
        return {"from": self.from_id, "to": account_in(self.bert, "USD"), "amount": amount, **members}

    async def send(self, mode: str, transfers: Sequence[Any], *, key: str | None = None) -> Told:
        """Anna sends a bulk."""
        return await send_bulk(self.service.base_url, self.anna, mode, transfers, key)

    async def accepted(self, amount: str, *, key: str | None = None, comment: str | None = None) -> str:
        """Anna's payment is accepted without the database; returns its order."""
        told = await self.pay(amount, key=key, comment=comment)
        assert told.status == 202, told
        return str(told.body["order_id"])

    @property
    def from_id(self) -> int:
        """The account that pays."""
        return account_in(self.anna, "USD")

    async def order(self, order_id: str) -> Any:
        """What Anna is shown of an order."""
        told = await order(self.service.base_url, self.anna, order_id)
        assert told.status == 200, told
        return told.body

    async def balance(self) -> Decimal:
        """What Anna's account is shown to hold."""
        return await balance(self.service.base_url, self.anna, self.from_id)

    async def take_database(self) -> None:
        """The node loses its database; the operator does not."""
        self.proxy.refuse()
        self.proxy.reset()

    async def bring_database(self) -> None:
        """The node reaches it again."""
        await self.proxy.accept()

    async def restart(self) -> None:
        """kill -9 of the node, and its next start."""
        self.service.kill()
        self.service.start()
        await self.service.wait_ready()

    async def waits_for(self, what: str) -> None:
        """Waits until the operator is told that settling waits for this."""
        await self.service.wait_health(
            lambda health: health["status"] == "attention" and what in (health["settling_waits_for"] or ""),
            f"settling waits for {what}",
            SETTLING_SECONDS,
        )
        assert what in self.service.whole_log()

    async def refuse(self, sqlstate: str, reason: str) -> str:
        """Refuses what settling waits for, by the command that the operator is told; returns what that prints."""
        await self.waits_for(sqlstate)
        awaited = str((await self.service.health())["settling_waits_for"])
        told = re.search(r"python -m aiopypay (journal refuse \d+) REASON$", awaited)
        assert told, awaited
        return await self.service.operate(*told[1].split(), reason)

    async def is_online(self) -> None:
        """Waits until everything is settled."""
        await self.service.wait_mode("online", SETTLING_SECONDS)
        health = await self.service.health()
        assert (health["journal"]["pending"], health["settling_waits_for"]) == (0, None)


@contextlib.asynccontextmanager
async def open_shop(
    postgres: PostgresServer,
    new_service: NewService,
    settings: Mapping[str, str],
    start: Callable[[ServiceProcess], None] = ServiceProcess.start,
) -> AsyncIterator[Shop]:
    """The database is up."""
    async with Proxy(postgres.port) as proxy:
        service = new_service(proxy.dsn(postgres.dsn), settings)
        start(service)
        await service.wait_ready()
        people = await register_people(service.base_url, ["anna", "bert"])
        await service.wait_filled()
        yield Shop(postgres, proxy, service, people)
