"""Clients that pay at random, and remember what they sent and what they were told."""

import asyncio
import base64
import contextlib
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import repeat
from typing import Any

import aiohttp

from .waiting import Stopwatch

ATTEMPT_SECONDS = 8
# A client that was refused or cut off lets this much time pass, as one would that heeds Retry-After, sped up.
BACKOFF_SECONDS = 0.05
KEYED, DOUBLED, REPEATED, FOREIGN = 0.9, 0.05, 0.05, 0.02
# Most payments are small; some are as large as a balance, so that who has been paid before decides; some are too large.
CENTS, WEIGHTS = ((1, 1_000), (5_000, 40_000), (50_000, 500_000)), (82, 10, 8)
BULK, BULK_SIZES = 0.15, (1, 12)
FOLLOWED = 100
# What a result of a bulk has in place of the status of an answer.
STATUSES = {"posted": 200, "pending": 202}
SUPERUSER_PASSWORD = "the superuser's password"

# One for all clients of a test, so that what one was told can be put in order with what another sent.
_events = itertools.count(1)


@dataclass(frozen=True)
class Person:
    """A user with their accounts, by id, and each one's currency."""

    id: int
    username: str
    password: str
    accounts: dict[int, str]

    @property
    def headers(self) -> dict[str, str]:
        """HTTP Basic credentials."""
        return credentials(self.username, self.password)


@dataclass(frozen=True)
class Answer:
    """What one attempt was told. `status` None: the connection was lost, or nothing came in time (`lost` says which).

    `started` and `ended` count events, so that attempts can be told apart that overlapped; `ended_at` is the moment on
    the monotonic clock.
    """

    started: int
    ended: int
    status: int | None
    body: Any = None
    lost: str = ""
    seconds: float = 0.0
    ended_at: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether it tells the outcome: accepted or refused."""
        return self.status is not None and self.status < 500 and self.status != 429

    @property
    def is_acknowledged(self) -> bool:
        """Whether the payment was accepted: booked, or to be booked."""
        return self.status in (200, 202)

    @property
    def label(self) -> str:
        """How it is counted."""
        if self.status is None:
            return self.lost
        return "in doubt" if self.status == 503 and "in-doubt" in self.body.get("type", "") else str(self.status)


@dataclass
class Payment:
    """A request to pay, with all answers to it. Its comment is unique, so that it can be found without a key too."""

    payer: Person
    from_account_id: int
    to_account_id: int
    amount: Decimal
    comment: str
    key: str | None
    answers: list[Answer] = field(default_factory=list)
    # Sent with others in one request, always.
    bulk: "Bulk | None" = None
    # What GET told of the order after the outage, where it had been accepted without the database.
    outcome: dict[str, Any] | None = None

    @property
    def sent_with(self) -> "list[Payment]":
        """All that are sent in one request with it, itself among them."""
        return [self] if self.bulk is None else self.bulk.payments

    @property
    def is_foreign(self) -> bool:
        """Whether the money is not the payer's: nobody may accept it, in any mode."""
        return self.from_account_id not in self.payer.accounts

    @property
    def acknowledgement(self) -> Answer | None:
        """The first answer that accepted it."""
        return next((answer for answer in self.answers if answer.is_acknowledged), None)

    @property
    def accepted(self) -> Answer | None:
        """The first answer that accepted it without the database."""
        return next((answer for answer in self.answers if answer.status == 202), None)

    @property
    def is_known(self) -> bool:
        """Whether the client can know its outcome: by an acceptance, or by a refusal after which nothing was sent."""
        return self.acknowledgement is not None or self.refusal is not None

    @property
    def refusal(self) -> Answer | None:
        """The refusal that is final, because all other attempts had ended before it began."""
        if not self.answers or self.acknowledgement is not None:
            return None
        last = max(self.answers, key=lambda answer: answer.started)
        others = [answer for answer in self.answers if answer is not last]
        final = last.is_known and all(other.ended < last.started for other in others)
        return last if final or (last.is_known and all(answer.is_known for answer in self.answers)) else None


@dataclass
class Bulk:
    """Payments of one payer in one request. With a `key` it stands for all of them; otherwise each has its own."""

    mode: str
    payments: list[Payment]
    key: str | None

    def transfers(self) -> list[dict[str, Any]]:
        """What is sent of them."""
        return [
            {
                "from": payment.from_account_id,
                "to": payment.to_account_id,
                "amount": str(payment.amount),
                "comment": payment.comment,
            }
            | ({"key": payment.key} if payment.key and not self.key else {})
            for payment in self.payments
        ]

    def told(self, status: int, body: Any) -> Iterator[tuple[int, Any]]:
        """What is said of each payment: its result, or the answer to all."""
        for place in range(len(self.payments)):
            result = body[place] if status == 200 else body
            yield STATUSES.get(result["status"], result["status"]), result


def credentials(username: str, password: str) -> dict[str, str]:
    """The header of HTTP Basic (RFC 7617)."""
    return {"Authorization": "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()}


class Load:
    """Payments among people, by concurrent clients, reproducible from the seed as far as timing lets them be."""

    def __init__(self, base_url: str, people: Sequence[Person], seed: int, *, clients: int = 16) -> None:
        self._base_url = base_url
        self._people = people
        self._seed = seed
        self._clients = clients
        self._numbers = itertools.count(1)
        self._stopping = False
        self.payments: list[Payment] = []
        # How many payments had to be sent again because their outcome was unknown.
        self.retried = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Clients pay within. On leaving they send nothing more and wait for their last answers."""
        self._stopping = False
        async with self._session() as session, asyncio.TaskGroup() as clients:
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
        again = generator.sample(known, min(20, len(known)))
        self.retried += len(unknown)
        # Once for each request: retries that overlap tell nobody that a refusal is final.
        requests = list({id(payment.sent_with[0]): payment for payment in unknown}.values())
        try:
            async with asyncio.timeout(within_seconds), self._session() as session, asyncio.TaskGroup() as clients:
                for number in range(self._clients):
                    clients.create_task(self._retry(session, requests[number :: self._clients]))
                for payment in again:
                    clients.create_task(self.attempt(session, payment))
        except TimeoutError:
            left = [payment for payment in unknown if not payment.is_known]
            raise AssertionError(f"{len(left)} outcomes unknown after {within_seconds} s of retrying") from None

    async def retry_elsewhere(self, payments: Sequence[Payment]) -> None:
        """Sends payments that others may have sent elsewhere once more, here."""
        async with self._session() as session:
            await asyncio.gather(*(self.attempt(session, payment) for payment in list(payments) if payment.key))

    async def follow(self, within_seconds: float = 20, *, everything: bool = False) -> None:
        """Asks for orders that were accepted without the database (a sample, where they are many) until each is
        posted or refused, and notes what it was told.
        """
        accepted = [payment for payment in self.payments if payment.accepted is not None]
        wanted = len(accepted) if everything else min(FOLLOWED, len(accepted))
        sample = random.Random(f"{self._seed}/followed").sample(accepted, wanted)
        try:
            async with asyncio.timeout(within_seconds), self._session() as session, asyncio.TaskGroup() as clients:
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
        return f"sent {len(self.payments)}; {told}; retried {self.retried}; without a key and unknown {unresolved}"

    async def _follow(self, session: aiohttp.ClientSession, payments: Sequence[Payment]) -> None:
        for payment in payments:
            assert payment.accepted is not None
            while payment.outcome is None:
                path = f"/users/{payment.payer.id}/orders/{payment.accepted.body['order_id']}"
                try:
                    async with session.get(self._base_url + path, headers=payment.payer.headers) as response:
                        body = json.loads(await response.text(), parse_float=Decimal)
                        assert response.status in (200, 503), f"{path} was answered {response.status}: {body}"
                        if response.status == 200 and body["status"] != "pending":
                            payment.outcome = body
                            break
                except (aiohttp.ClientError, OSError):
                    # Asked again, as a client would.
                    pass
                await asyncio.sleep(BACKOFF_SECONDS)

    async def attempt(self, session: aiohttp.ClientSession, payment: Payment) -> Answer:
        """Sends the payment once more, with those that it was sent with, and notes the answer."""
        bulk = payment.bulk
        request = self._single_request(payment) if bulk is None else self._bulk_request(bulk)
        started, watch = next(_events), Stopwatch()
        status, body, lost = None, None, ""
        try:
            async with session.post(**request) as response:
                body = json.loads(await response.text(), parse_float=Decimal)
                status = response.status
        except TimeoutError:
            lost = "timeout"
        except (aiohttp.ClientError, OSError):
            lost = "lost"
        ended, ended_at = next(_events), time.monotonic()
        told = bulk.told(status, body) if bulk and status else repeat((status, body))
        for one, (its_status, its_body) in zip(payment.sent_with, told, strict=False):
            one.answers.append(Answer(started, ended, its_status, its_body, lost, watch.seconds, ended_at))
        return payment.answers[-1]

    def _single_request(self, payment: Payment) -> dict[str, Any]:
        return {
            "url": f"{self._base_url}/users/{payment.payer.id}/transfers",
            "headers": payment.payer.headers | ({"Idempotency-Key": payment.key} if payment.key else {}),
            "data": {
                "from": payment.from_account_id,
                "to": payment.to_account_id,
                "amount": str(payment.amount),
                "comment": payment.comment,
            },
        }

    def _bulk_request(self, bulk: Bulk) -> dict[str, Any]:
        payer = bulk.payments[0].payer
        return {
            "url": f"{self._base_url}/users/{payer.id}/transfers/bulk",
            "headers": payer.headers | ({"Idempotency-Key": bulk.key} if bulk.key else {}),
            "json": {"mode": bulk.mode, "transfers": bulk.transfers()},
        }

    async def send_one(self) -> Payment:
        """Sends one payment more, beside what runs, and returns it with its answer."""
        payment = self.new_payment(random.Random(f"{self._seed}/{len(self.payments)}"))
        async with self._session() as session:
            await self.attempt(session, payment)
        return payment

    def new_bulk(self, generator: random.Random) -> Bulk:
        """A bulk of payments drawn at random, already on record. Each has its key, or none has one."""
        payer, mode = generator.choice(self._people), generator.choice(["each", "all"])
        payments = [
            # What is not the payer's is the problem of all that are to be booked together.
            self.new_payment(generator, payer=payer, foreign=FOREIGN if mode == "each" else 0)
            for _ in range(generator.randint(*BULK_SIZES))
        ]
        key = f"bulk-{payments[0].comment.replace('/', '-')}"
        bulk = Bulk(mode, payments, generator.choice([key, None]))
        keyed = generator.random() < KEYED or bulk.key is not None
        for place, payment in enumerate(payments):
            # The service makes a key for each of those that have one in common.
            # The first bears the request's key itself.
            of_request = f"{bulk.key} {place}" if place else bulk.key
            payment.key = of_request if bulk.key else f"{key}-{place}" if keyed else None
            payment.bulk = bulk
        return bulk

    def new_payment(
        self, generator: random.Random, *, payer: Person | None = None, foreign: float = FOREIGN
    ) -> Payment:
        """A payment drawn at random, already on record."""
        payer = payer or generator.choice(self._people)
        from_account_id = generator.choice(list(payer.accounts))
        currency = payer.accounts[from_account_id]
        is_foreign = generator.random() < foreign
        spender = generator.choice([person for person in self._people if person is not payer]) if is_foreign else payer
        if is_foreign:
            from_account_id = generator.choice(list(spender.accounts))
            currency = spender.accounts[from_account_id]
        payees = [
            account_id
            for person in self._people
            for account_id in person.accounts
            if person.accounts[account_id] == currency and account_id != from_account_id
        ]
        cents = generator.randint(*generator.choices(CENTS, WEIGHTS)[0])
        number = next(self._numbers)
        payment = Payment(
            payer,
            from_account_id,
            generator.choice(payees),
            Decimal(cents).scaleb(-2),
            f"{self._seed}/{number}",
            f"{self._seed}-{number}" if generator.random() < KEYED else None,
        )
        self.payments.append(payment)
        return payment

    async def _pay_on(self, session: aiohttp.ClientSession, generator: random.Random) -> None:
        while not self._stopping:
            is_bulk = generator.random() < BULK
            payment = self.new_bulk(generator).payments[0] if is_bulk else self.new_payment(generator)
            attempts = 2 if payment.key and generator.random() < DOUBLED else 1
            answers = await asyncio.gather(*(self.attempt(session, payment) for _ in range(attempts)))
            if payment.key and generator.random() < REPEATED:
                await self.attempt(session, payment)
            if not all(answer.is_known for answer in answers):
                await asyncio.sleep(BACKOFF_SECONDS)

    async def _retry(self, session: aiohttp.ClientSession, payments: Sequence[Payment]) -> None:
        for payment in payments:
            while not all(one.is_known for one in payment.sent_with):
                answer = await self.attempt(session, payment)
                if not answer.is_known:
                    await asyncio.sleep(BACKOFF_SECONDS)

    def _session(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_SECONDS)
        return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))


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
