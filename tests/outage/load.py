"""Clients that pay at random, and remember what they sent and what they were told."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from itertools import repeat

import aiohttp

from .draws import PAYMENTS_ALONE, Draws, Mix
from .payments import Answer, Bulk, Opening, Payment, Person, Read, cash_answer, credentials
from .people import SUPERUSER_PASSWORD, register_people, the_superuser
from .requests import ask, client

__all__ = [
    "SUPERUSER_PASSWORD",
    "Answer",
    "Bulk",
    "Load",
    "Payment",
    "Person",
    "credentials",
    "register_people",
    "the_superuser",
]

# A client that was refused or cut off lets this much time pass, as one would that heeds Retry-After, sped up.
BACKOFF_SECONDS = 0.05
# Where nobody answers, each attempt leaves one more payment to be asked for later.
LOST_SECONDS = 0.15
DOUBLED, REPEATED, REPEATED_LATER = 0.05, 0.05, 20
FOLLOWED = 100


class Load:
    """Payments among people by concurrent clients; and whatever else the mix has."""

    def __init__(
        self,
        base_url: str,
        people: Sequence[Person],
        seed: int,
        *,
        clients: int = 16,
        mix: Mix = PAYMENTS_ALONE,
        payees: Sequence[Person] = (),
    ) -> None:
        self._base_url = base_url
        self._seed = seed
        self._clients = clients
        self._stopping = False
        self.draws = Draws(people, payees, seed, mix)
        self.payments = self.draws.payments
        self.reads: list[Read] = []
        self.openings: list[Opening] = []
        # How many payments had to be sent again because their outcome was unknown.
        self.retried = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Clients pay within. On leaving they send nothing more and wait for their last answers."""
        self._stopping = False
        async with client() as session, asyncio.TaskGroup() as clients:
            for number in range(self._clients):
                clients.create_task(self._pay_on(session, random.Random(f"{self._seed}/{number}")))
            try:
                yield
            finally:
                self._stopping = True

    async def resolve(self, within_seconds: float = 20) -> None:
        """Retries, with the same key, each payment whose outcome is unknown, until it is known; and some that are."""
        generator = random.Random(f"{self._seed}/retries")
        unknown = [payment for payment in self.payments if payment.key and not payment.is_known]
        known = [payment for payment in self.payments if payment.key and payment.acknowledgement]
        again = _requests(generator.sample(known, min(REPEATED_LATER, len(known))))
        self.retried += len(unknown)
        # Once for each request: retries that overlap tell nobody that a refusal is final.
        requests = _requests(unknown)
        try:
            async with asyncio.timeout(within_seconds), client() as session, asyncio.TaskGroup() as clients:
                for number in range(self._clients):
                    clients.create_task(self._retry(session, requests[number :: self._clients]))
                for payment in again:
                    clients.create_task(self.attempt(session, payment))
                for opening in self.openings:
                    clients.create_task(self._open_at_last(session, opening))
        except TimeoutError:
            left = [payment for payment in unknown if not payment.is_known]
            raise AssertionError(f"{len(left)} outcomes unknown after {within_seconds} s of retrying") from None

    async def retry_elsewhere(self, payments: Sequence[Payment]) -> None:
        """Sends payments that others may have sent elsewhere once more, here."""
        async with client() as session:
            await asyncio.gather(*(self.attempt(session, payment) for payment in list(payments) if payment.key))

    async def follow(self, within_seconds: float = 20, *, everything: bool = False) -> None:
        """Asks for orders that were accepted without the database (a sample, where they are many) until each is
        posted or refused, and notes what it was told.
        """
        accepted = [payment for payment in self.payments if payment.accepted is not None]
        wanted = len(accepted) if everything else min(FOLLOWED, len(accepted))
        sample = random.Random(f"{self._seed}/followed").sample(accepted, wanted)
        try:
            async with asyncio.timeout(within_seconds), client() as session, asyncio.TaskGroup() as clients:
                for number in range(self._clients):
                    clients.create_task(self._follow(session, sample[number :: self._clients]))
        except TimeoutError:
            left = [payment for payment in sample if payment.outcome is None]
            raise AssertionError(f"{len(left)} accepted orders without an outcome after {within_seconds} s") from None

    def first_answered(self, status: int, after: float) -> float | None:
        """When, on the monotonic clock, the first answer with this status ended after a moment; None: never."""
        moments = (
            answer.ended_at
            for payment in self.payments
            for answer in payment.answers
            if answer.status == status and answer.ended_at >= after
        )
        return min(moments, default=None)

    def answered(self, status: int) -> int:
        """How many answers had this status so far."""
        return sum(answer.status == status for payment in self.payments for answer in payment.answers)

    def slowest(self) -> float:
        """The longest that an attempt took, in seconds."""
        return max((answer.seconds for payment in self.payments for answer in payment.answers), default=0.0)

    def counts(self) -> str:
        """One line for the record: payments sent, answers by kind, payments whose outcome had to be asked for."""
        labels = Counter(answer.label for payment in self.payments for answer in payment.answers)
        told = ", ".join(f"{label} ×{count}" for label, count in sorted(labels.items()))
        unresolved = sum(not payment.is_known for payment in self.payments)
        reads = f"; reads {len(self.reads)}" if self.reads else ""
        return (
            f"sent {len(self.payments)}; {told}; retried {self.retried}; without a key and unknown {unresolved}{reads}"
        )

    async def attempt(self, session: aiohttp.ClientSession, payment: Payment) -> Answer:
        """Sends the payment once more, with those that it was sent with, and notes the answer."""
        bulk = payment.bulk
        answer, location = await ask(session, "POST", **(bulk or payment).request(self._base_url))
        status, body = answer.status, answer.body
        if status is not None and payment.kind != "transfer":
            status, body = cash_answer(status, body, location)
        told = bulk.told(status, body) if bulk and status else repeat((status, body))
        for one, (its_status, its_body) in zip(payment.sent_with, told, strict=False):
            times = (answer.started, answer.ended, its_status, its_body, answer.lost, answer.seconds, answer.ended_at)
            one.answers.append(Answer(*times))
        if status == 401:
            payment.payer.try_other_password()
        return payment.answers[-1]

    async def read(self, session: aiohttp.ClientSession, person: Person, path: str) -> Read:
        """Asks for balances, and notes what is told."""
        answer, _ = await ask(session, "GET", url=self._base_url + path, headers=person.headers)
        balances: dict[int, Decimal] = {}
        if answer.status == 200:
            rows = answer.body if isinstance(answer.body, list) else [answer.body]
            # A balance without decimals would be an int.
            balances = {row["id"]: Decimal(row["value"] if "value" in row else row["amount"]) for row in rows}
        self.reads.append(Read(person, path, answer, balances))
        return self.reads[-1]

    async def open_account(self, session: aiohttp.ClientSession, opening: Opening) -> Answer:
        """Asks for another account; once it is told to be there it is paid from and to."""
        person = opening.person
        url = f"{self._base_url}/users/{person.id}/accounts/{opening.currency_id}"
        headers = person.headers | {"Idempotency-Key": opening.key}
        answer, _ = await ask(session, "POST", url=url, headers=headers)
        opening.answers.append(answer)
        person.accounts.update(dict.fromkeys(opening.account_ids, opening.currency_id))
        return answer

    async def send_large_bulk(self, generator: random.Random) -> None:
        """Sends a large bulk, beside what runs."""
        async with client() as session:
            await self.attempt(session, self.draws.bulk(generator, is_large=True).payments[0])

    async def send_one(self) -> Payment:
        """Sends one payment more, beside what runs, and returns it with its answer."""
        payment = self.draws.payment(random.Random(f"{self._seed}/{len(self.payments)}"))
        async with client() as session:
            await self.attempt(session, payment)
        return payment

    async def _follow(self, session: aiohttp.ClientSession, payments: Sequence[Payment]) -> None:
        for payment in payments:
            assert payment.accepted is not None
            path = f"/users/{payment.payer.id}/orders/{payment.accepted.body['order_id']}"
            while payment.outcome is None:
                answer, _ = await ask(session, "GET", url=self._base_url + path, headers=payment.payer.headers)
                # 403: made active in SQL a moment ago, which is known without the database within 2 s.
                assert answer.status in (None, 200, 401, 403, 503), f"{path}: {answer.status}, {answer.body}"
                if answer.status == 200 and answer.body["status"] != "pending":
                    payment.outcome = answer.body
                    break
                if answer.status == 401:
                    payment.payer.try_other_password()
                await asyncio.sleep(BACKOFF_SECONDS)

    async def _pay_on(self, session: aiohttp.ClientSession, generator: random.Random) -> None:
        while not self._stopping:
            if self.draws.reads(generator):
                person = self.draws.person(generator)
                answers = [(await self.read(session, person, self.draws.path(generator, person))).answer]
            elif self.draws.opens(generator) and (opening := self.draws.opening(generator)) is not None:
                self.openings.append(opening)
                answers = [await self.open_account(session, opening)]
            else:
                answers = await self._pay(session, self.draws.order(generator), generator)
            if not all(answer.is_known for answer in answers):
                is_lost = any(answer.status is None for answer in answers)
                await asyncio.sleep(LOST_SECONDS if is_lost else BACKOFF_SECONDS)

    async def _pay(self, session: aiohttp.ClientSession, payment: Payment, generator: random.Random) -> list[Answer]:
        attempts = 2 if payment.key and generator.random() < DOUBLED else 1
        answers = await asyncio.gather(*(self.attempt(session, payment) for _ in range(attempts)))
        if payment.key and generator.random() < REPEATED:
            await self.attempt(session, payment)
        return answers

    async def _retry(self, session: aiohttp.ClientSession, payments: Sequence[Payment]) -> None:
        for payment in payments:
            while not all(one.is_known for one in payment.sent_with):
                answer = await self.attempt(session, payment)
                if not answer.is_known:
                    await asyncio.sleep(BACKOFF_SECONDS)

    async def _open_at_last(self, session: aiohttp.ClientSession, opening: Opening) -> None:
        while not opening.account_ids:
            if (await self.open_account(session, opening)).status != 200:
                await asyncio.sleep(BACKOFF_SECONDS)


def _requests(payments: Sequence[Payment]) -> list[Payment]:
    """One of those that are sent with one request."""
    return list({id(payment.sent_with[0]): payment for payment in payments}.values())
