"""Stores to test on: what goes into them, all that can be read from them, and one that is killed."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid5

from msgspec.structs import replace

from aiopypay.ledger import Currency, Transfer, TransferOrder
from aiopypay.stand_in import opening
from aiopypay.stand_in.moments_on_disk import MOMENTS, note_moments, record_moment
from aiopypay.stand_in.records import AccountIdentity, Entry, Identities, KnownAccount, KnownUser, Plan, UserIdentity
from aiopypay.stand_in.store import Store
from aiopypay.store.moments import Moment
from aiopypay.store.orders import OrderRecord
from aiopypay.store.transfers import TransferRow

NOON = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)
NAMESPACE = UUID("6f2a9f0a-7d0e-4c1e-9c53-2f1a53c1d0aa")
ACCOUNTS = range(-1, 10)
USER_NAMES = ("superuser", "Ann", "bob")
SETTINGS = ("installation", "orders_trimmed")


Files = dict[str, bytes]


def order_id(number: int) -> UUID:
    """The id of the order with this number; the same in each process."""
    return uuid5(NAMESPACE, str(number))


def account(account_id: int, amount: str = "100.00", version: int = 1, user_id: int | None = 2) -> KnownAccount:
    return KnownAccount(account_id, user_id, "USD", Decimal(amount), version, NOON, None)


def user(user_id: int, username: str, version: int = 1) -> KnownUser:
    return KnownUser(user_id, username, username.title(), f"$argon2id$of{user_id}", False, True, version)


def currency(currency_id: str, rate: str = "0.01") -> Currency:
    return Currency(currency_id, f"The {currency_id}", Decimal(rate), 2, 3, -1)


def entry(number: int, source: int = 1, target: int = 2, amount: str = "10.00") -> Entry:
    """Pays from one account to another, and a commission of 0.10 to account 3."""
    order = TransferOrder(
        order_id(number), 2, source, target, Decimal(amount), None, b"f" * 32, f"key-{number}", NOON, Decimal("0.01")
    )
    payment = Transfer("payment", source, target, Decimal(amount), "External payment")
    commission = Transfer("commission", source, 3, Decimal("0.10"), "Commission")
    return Entry(order, (payment, commission), Decimal("89.90"), 2)


def record(number: int) -> OrderRecord:
    transfer = TransferRow(number, order_id(number), "payment", NOON, 1, 2, Decimal("10.00"), "External payment", 2)
    return OrderRecord(order_id(number), 2, b"f" * 32, "posted", NOON, NOON, None, Decimal("90.00"), (transfer,))


def fill(store: Store) -> None:
    """Leaves something in each table, by durable and other transactions."""
    with store.transaction(durable=False):
        store.remember_currencies([currency("USD"), currency("EUR")])
        store.remember_users(user(number, name) for number, name in enumerate(USER_NAMES, 1))
        store.remember_accounts(account(number, user_id=None if number < 0 else 2) for number in ACCOUNTS)
        store.set_setting("installation", "7")
    with store.transaction(durable=True):
        store.mark_uncertain("bob")
        store.write_plan(1, Plan([entry(90)]))
    with store.transaction(durable=False):
        store.withdraw_plans([1])
        store.remember_orders([record(90), record(91)])
        store.remember_accounts([account(1, "90.00", version=2)])
    for number in range(3):
        with store.transaction(durable=True):
            store.append([entry(2 * number), entry(2 * number + 1)])
    with store.transaction(durable=False):
        store.mark_posted([1], NOON)
        store.mark_refused(2, "account 1 is short of money", NOON)
    with store.transaction(durable=True):
        store.write_plan(1, Plan([entry(92), entry(93)]))
    with store.transaction(durable=True):
        store.write_plan(2, Plan([entry(94)]))
    with store.transaction(durable=False):
        store.remember_accounts([account(2, "110.00", version=2)])


def fill_with_what_format_3_adds(store: Store) -> None:
    """What stores had no place for before: who is who, moments, keys of orders, what others changed."""
    identities = Identities((UserIdentity(2, "Ann", NOON),), (AccountIdentity(1, "USD", NOON, 2),))
    with store.transaction(durable=True):
        store.remember_users([replace(user(2, "Ann", version=2), created_at=NOON, deactivations=1)])
        store.remember_orders([replace(record(93), idempotency_key="key-93")])
        store.append([replace(entry(80), in_doubt=True, told=False, identities=identities), entry(81)])
        store.mark_unplaced(8, "user 2 is somebody else", NOON)
        store.mark_changed([("accounts", 4), ("users", None)])
        note_moments(store, [Moment(6, UUID(int=6)), Moment(7, UUID(int=7))])
        record_moment(store, Moment(6, UUID(int=6)))
        store.write_plan(3, Plan([entry(95)], Moment(8, UUID(int=8))))


def content(store: Store) -> dict[str, object]:
    """All that can be read from a store."""
    return {
        "node": store.node_id,
        "settings": [store.setting(name) for name in SETTINGS],
        "accounts": store.accounts(ACCOUNTS),
        "of user": store.accounts_of_user(2, 0, 100),
        "users": [(store.user_by_name(name), store.is_uncertain(name)) for name in USER_NAMES],
        "counts": (store.counts(), store.pending_count()),
        "currencies": store.currencies(),
        "orders": [store.order(order_id(number)) for number in range(88, 94)],
        "entries": store.entries(None, 100),
        "pending": store.entries("pending", 100),
        "by order": [store.entry(order_id(number)) for number in range(7)],
        "plans": store.plans(),
        "changed": store.changed(),
        "moments": store.setting(MOMENTS),
    }


def files_of(directory: Path) -> Files:
    """The store's files. The lock holds nothing that matters."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "lock"}


def put_files(directory: Path, files: Files) -> None:
    """Leaves these files and no others in the directory."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for path in directory.iterdir():
        if path.name not in files and path.name != "lock":
            path.unlink()
    for name, data in files.items():
        (directory / name).write_bytes(data)


def closed_store(directory: Path) -> None:
    """Makes a filled store that was closed."""
    store = Store.open(directory)
    fill(store)
    store.close()


def killed_store(directory: Path) -> None:
    """Makes a filled store whose process was killed, so that it left a log."""
    command = [sys.executable, "-m", __name__, str(directory), str(opening.PAGE_BYTES)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (directory / "store.sqlite-wal").stat().st_size


if __name__ == "__main__":
    opening.PAGE_BYTES = int(sys.argv[2])
    fill(Store.open(Path(sys.argv[1])))
    os.kill(os.getpid(), signal.SIGKILL)
