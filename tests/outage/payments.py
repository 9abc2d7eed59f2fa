"""What clients send and what they are told: payments, deposits and withdrawals, bulks, reads; all of it remembered."""

import base64
import csv
import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

# What a result of a bulk has in place of the status of an answer.
STATUSES = {"posted": 200, "pending": 202}
# The accounts that stand for the world outside.
EXTERNAL = {"USD": -1, "CNY": -2, "EUR": -3}
# How a refusal names the balance that did not suffice.
HELD = re.compile(r"(?:holds |Not enough funds \()(\d+(?:\.\d+)?)")

Kind = Literal["transfer", "deposit", "withdrawal"]

# One for all clients of a test, so that what one was told can be put in order with what another sent.
_events = itertools.count(1)


def next_event() -> int:
    """Returns the number of an event that happens now; all events of a test are counted."""
    return next(_events)


@dataclass
class Person:
    """A user with their accounts, by id, and each one's currency.

    `other_password` is theirs, possibly, where the outcome of a change is unknown. Who `is_quiet` seldom pays or is
    paid: what is changed of theirs by others is not learnt by the way.
    """

    id: int
    username: str
    password: str
    accounts: dict[int, str]
    other_password: str | None = None
    is_quiet: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """HTTP Basic credentials."""
        return credentials(self.username, self.password)

    def try_other_password(self) -> None:
        """The password was refused: it may be the other one."""
        if self.other_password is not None:
            self.password, self.other_password = self.other_password, self.password


@dataclass(frozen=True)
class Answer:
    """What one attempt was told. `status` None: the connection was lost, or nothing came in time (`lost` says which).

    `started` and `ended` count events, so that attempts can be told apart that overlapped; `ended_at` is the moment on
    the monotonic clock. 201, which answers deposits and withdrawals, is noted as the 200 or 202 that it stands for.
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
        """Whether it tells the outcome: accepted or refused. Who was not let in was told nothing."""
        not_told = self.status is None or self.status >= 500 or self.status in (401, 429)
        return not (not_told or self.is_of_deactivated)

    @property
    def is_of_deactivated(self) -> bool:
        """Whether it says that the user is deactivated."""
        return self.status == 403 and "user-deactivated" in self.body.get("type", "")

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
    """A request to pay, with all answers to it. Its comment is unique, so that it can be found without a key too.

    A deposit or withdrawal, which bears no comment, is known by its account and its amount: no other has both.
    """

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
    kind: Kind = "transfer"
    # Whose account it is that money is brought to or taken from.
    owner: Person | None = None

    @property
    def sent_with(self) -> "list[Payment]":
        """All that are sent in one request with it, itself among them."""
        return [self] if self.bulk is None else self.bulk.payments

    @property
    def is_foreign(self) -> bool:
        """Whether the money is not the payer's: nobody may accept it, in any mode."""
        return self.kind == "transfer" and self.from_account_id not in self.payer.accounts

    @property
    def account_id(self) -> int:
        """The account whose balance its payer is told."""
        return self.to_account_id if self.kind == "deposit" else self.from_account_id

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

    def request(self, base_url: str) -> dict[str, Any]:
        """How it is sent alone."""
        path = f"/users/{self.payer.id}/transfers" if self.kind == "transfer" else "/api/balances"
        body: dict[str, Any] = {"data": self._form()} if self.kind == "transfer" else {"json": self._cash()}
        keyed = {"Idempotency-Key": self.key} if self.key else {}
        return {"url": base_url + path, "headers": self.payer.headers | keyed, **body}

    def _form(self) -> dict[str, Any]:
        return {
            "from": self.from_account_id,
            "to": self.to_account_id,
            "amount": str(self.amount),
            "comment": self.comment,
        }

    def _cash(self) -> dict[str, Any]:
        assert self.owner is not None
        sign = "-" if self.kind == "withdrawal" else ""
        return {"user_id": self.owner.id, "value": f"{sign}{self.amount}", "account_id": self.account_id}


def cash_answer(status: int, body: Any, location: str) -> tuple[int, Any]:
    """Returns a 201 in the form of the 200 or 202 that another payment would have been answered with."""
    if status != 201:
        return status, body
    order_id = location.rpartition("/")[2]
    if "detail" in body:
        return 202, {"order_id": body["order_id"], "status": "pending", "balance": body["detail"]["balance"]}
    return 200, {"order_id": order_id, "status": "posted", "balance": body["value"]}


@dataclass
class Bulk:
    """Payments of one payer in one request. With a `key` it stands for all of them; otherwise each has its own."""

    mode: str
    payments: list[Payment]
    key: str | None
    is_csv: bool = False

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

    def request(self, base_url: str) -> dict[str, Any]:
        """How it is sent."""
        payer = self.payments[0].payer
        headers = payer.headers | ({"Idempotency-Key": self.key} if self.key else {})
        url = f"{base_url}/users/{payer.id}/transfers/bulk"
        if not self.is_csv:
            return {"url": url, "headers": headers, "json": {"mode": self.mode, "transfers": self.transfers()}}
        return {
            "url": f"{url}?mode={self.mode}",
            "headers": headers | {"Content-Type": "text/csv"},
            "data": self._csv().encode(),
        }

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, ["from", "to", "amount", "comment", "key"], restval="")
        writer.writeheader()
        writer.writerows(self.transfers())
        return text.getvalue()

    def told(self, status: int, body: Any) -> Iterator[tuple[int, Any]]:
        """What is said of each payment: its result, or the answer to all."""
        for place in range(len(self.payments)):
            result = body[place] if status == 200 else body
            yield STATUSES.get(result["status"], result["status"]), result


@dataclass(frozen=True)
class Read:
    """A question for balances, and what was told of each account."""

    person: Person
    path: str
    answer: Answer
    balances: dict[int, Decimal]


@dataclass
class Opening:
    """A request for another account, under a key, with all answers to it."""

    person: Person
    currency_id: str
    key: str
    answers: list[Answer] = field(default_factory=list)

    @property
    def account_ids(self) -> set[int]:
        """The accounts that were told to have been opened by it."""
        return {answer.body["id"] for answer in self.answers if answer.status == 200}


def accounts_path(person: Person) -> str:
    """Where all of somebody's accounts are listed."""
    return f"/users/{person.id}/accounts"


def credentials(username: str, password: str) -> dict[str, str]:
    """The header of HTTP Basic (RFC 7617)."""
    return {"Authorization": "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()}
