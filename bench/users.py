"""The users in whose names the load generator pays."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.service import Client


@dataclass(frozen=True, slots=True)
class BenchUser:
    """A user and the dollar account that they pay from."""

    id: int
    account_id: int
    authorization: str


def register(client: Client, number: int) -> BenchUser:
    """Registers a user and lets the service verify their password once: it remembers that for five minutes."""
    name, password = f"payer{number}", f"correct horse {number}"
    user = client.ask("POST", "/users", form={"username": name, "password": password})
    accounts = client.ask("GET", f"/users/{user['id']}/accounts", authorization=basic(name, password))
    return BenchUser(user["id"], accounts[0]["id"], basic(name, password))


def basic(username: str, password: str) -> str:
    """The value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def pay(client: Client, payer: BenchUser, payee: BenchUser) -> Any:
    """Pays 0.01 and returns the receipt."""
    form: dict[str, object] = {"from": payer.account_id, "to": payee.account_id, "amount": "0.01"}
    return client.ask("POST", f"/users/{payer.id}/transfers", form=form, authorization=payer.authorization)


def write_users(path: Path, users: Sequence[BenchUser]) -> Path:
    """Writes the file that load.lua reads."""
    path.write_text("".join(f"{user.id}\t{user.account_id}\t{user.authorization}\n" for user in users))
    return path


def payment_variables(users: Sequence[BenchUser]) -> dict[str, int]:
    """What payment.sql needs to draw among the users: they were registered one by one, so that their ids are in steps.

    Raises `BenchError` where they are not.
    """
    first, second = users[:2]
    step = second.account_id - first.account_id
    expected = [(first.id + number, first.account_id + step * number) for number in range(len(users))]
    if expected != [(user.id, user.account_id) for user in users]:
        raise BenchError("the ids of the users and their accounts are not in steps")
    return {
        "users": len(users),
        "first_user": first.id,
        "first_account": first.account_id,
        "accounts_of_a_user": step,
    }
