"""What clients do next, drawn at random: reproducible from the seed as far as timing lets it be."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from .payments import EXTERNAL, Bulk, Opening, Payment, Person, accounts_path

KEYED, FOREIGN = 0.9, 0.02
# Most payments are small; some are as large as a balance, so that who has been paid before decides; some are too large.
CENTS, WEIGHTS = ((1, 1_000), (5_000, 40_000), (50_000, 500_000)), (82, 10, 8)
BULK_SIZES = (1, 12)
# So that a large bulk that is booked as a whole can be covered.
CENTS_OF_LARGE_BULKS = (1, 20)
LARGE, DEPOSIT, BY_ADMIN = 0.04, 0.5, 0.2
# How often one who is drawn but quiet does nothing, and is not paid.
QUIET = 0.985
ACCOUNTS_MAX = 6
# Each amount is drawn once before one is drawn again: the step has no divisor in common with their number.
CASH_CENTS, CASH_STEP = 50_000, 7_919

_cash = itertools.count(1)


@dataclass(frozen=True)
class Mix:
    """How much of what clients do is not a payment: probabilities, and how many large bulks there are at most."""

    bulks: float = 0.15
    reads: float = 0.0
    cash: float = 0.0
    openings: float = 0.0
    csv: float = 0.0
    large_bulks: int = 0
    large_sizes: tuple[int, int] = (200, 1_000)


PAYMENTS_ALONE = Mix()
EVERYTHING = Mix(reads=0.15, cash=0.08, openings=0.005, csv=0.3, large_bulks=3)


class Draws:
    """Requests among `people`. Those of `payees` are paid too, and do nothing by themselves."""

    def __init__(self, people: Sequence[Person], payees: Sequence[Person], seed: int, mix: Mix) -> None:
        self._people = people
        self._payees = payees
        self._seed = seed
        self._mix = mix
        self._numbers = itertools.count(1)
        self._large_bulks_left = mix.large_bulks
        self.payments: list[Payment] = []

    def reads(self, generator: random.Random) -> bool:
        """Whether the next request is a read."""
        return generator.random() < self._mix.reads

    def opens(self, generator: random.Random) -> bool:
        """Whether the next request is for another account."""
        return generator.random() < self._mix.openings

    def person(self, generator: random.Random) -> Person:
        """Who does something next."""
        return generator.choice(self._people)

    def path(self, generator: random.Random, person: Person) -> str:
        """Where somebody looks for balances."""
        account_id = generator.choice(list(person.accounts))
        return generator.choice([f"/accounts/{account_id}", accounts_path(person), "/api/balances/my"])

    def order(self, generator: random.Random) -> Payment:
        """A payment, alone or with others in a bulk, or a deposit or withdrawal; already on record."""
        drawn = generator.random()
        if drawn < self._mix.bulks:
            return self.bulk(generator).payments[0]
        if drawn < self._mix.bulks + self._mix.cash:
            return self.cash(generator)
        return self.payment(generator)

    def opening(self, generator: random.Random) -> Opening | None:
        """A request for another account, None where somebody has enough of them."""
        person = self.person(generator)
        if len(person.accounts) >= ACCOUNTS_MAX:
            return None
        return Opening(person, generator.choice(list(EXTERNAL)), f"account-{self._seed}-{next(self._numbers)}")

    def cash(self, generator: random.Random, owner: Person | None = None, *, by_admin: float = BY_ADMIN) -> Payment:
        """A deposit or withdrawal of one's own, or by the superuser for somebody."""
        admin = self._people[0] if self._people[0].id == 1 else None
        owner = owner or self._spender(generator)
        payer = admin if admin is not None and generator.random() < by_admin else owner
        account_id = generator.choice(list(owner.accounts))
        external = EXTERNAL[owner.accounts[account_id]]
        is_deposit = generator.random() < DEPOSIT
        cents = 1 + next(_cash) * CASH_STEP % CASH_CENTS
        comment, key = self._named(generator)
        payment = Payment(
            payer,
            external if is_deposit else account_id,
            account_id if is_deposit else external,
            Decimal(cents).scaleb(-2),
            comment,
            key,
            kind="deposit" if is_deposit else "withdrawal",
            owner=owner,
        )
        self.payments.append(payment)
        return payment

    def bulk(self, generator: random.Random, *, is_large: bool = False) -> Bulk:
        """A bulk of payments. Each has its key, or none has one."""
        payer, mode = self._spender(generator), generator.choice(["each", "all"])
        if not is_large and self._large_bulks_left > 0 and generator.random() < LARGE:
            is_large = True
            self._large_bulks_left -= 1
        # What is not the payer's is the problem of all that are to be booked together.
        foreign = FOREIGN if mode == "each" else 0
        payments = [
            self.payment(generator, payer=payer, foreign=foreign, is_small=is_large)
            for _ in range(generator.randint(*(self._mix.large_sizes if is_large else BULK_SIZES)))
        ]
        key = f"bulk-{payments[0].comment.replace('/', '-')}"
        bulk = Bulk(mode, payments, generator.choice([key, None]), generator.random() < self._mix.csv)
        keyed = generator.random() < KEYED or bulk.key is not None
        for place, payment in enumerate(payments):
            # The service makes a key for each of those that have one in common.
            # The first bears the request's key itself.
            of_request = f"{bulk.key} {place}" if place else bulk.key
            payment.key = of_request if bulk.key else f"{key}-{place}" if keyed else None
            payment.bulk = bulk
        return bulk

    def payment(
        self,
        generator: random.Random,
        *,
        payer: Person | None = None,
        foreign: float = FOREIGN,
        is_small: bool = False,
    ) -> Payment:
        """A payment of its own."""
        payer = payer or self._spender(generator)
        spender = payer
        if generator.random() < foreign:
            spender = generator.choice([person for person in self._people if person is not payer])
        from_account_id = generator.choice(list(spender.accounts))
        currency = spender.accounts[from_account_id]
        payees = self._payees_in(currency, from_account_id, quiet_too=generator.random() > QUIET)
        cents = generator.randint(*(CENTS_OF_LARGE_BULKS if is_small else generator.choices(CENTS, WEIGHTS)[0]))
        to_account_id, amount = generator.choice(payees), Decimal(cents).scaleb(-2)
        payment = Payment(payer, from_account_id, to_account_id, amount, *self._named(generator))
        self.payments.append(payment)
        return payment

    def _spender(self, generator: random.Random) -> Person:
        person = generator.choice(self._people)
        return generator.choice(self._people) if person.is_quiet and generator.random() < QUIET else person

    def _payees_in(self, currency_id: str, but: int, *, quiet_too: bool) -> list[int]:
        people = [person for person in [*self._people, *self._payees] if quiet_too or not person.is_quiet]
        accounts = [account for person in people for account in person.accounts.items()]
        return [account_id for account_id, currency in accounts if currency == currency_id and account_id != but]

    def _named(self, generator: random.Random) -> tuple[str, str | None]:
        number = next(self._numbers)
        return f"{self._seed}/{number}", f"{self._seed}-{number}" if generator.random() < KEYED else None
