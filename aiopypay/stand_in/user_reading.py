"""What is read of users who are uncertain: so much at once as takes little time, whatever they have made."""

from collections.abc import Sequence
from dataclasses import dataclass

from aiopypay.stand_in import pages
from aiopypay.stand_in.records import KnownUser
from aiopypay.stand_in.store import Store
from aiopypay.statements import Connection
from aiopypay.store.accounts import AccountState
from aiopypay.store.orders import OrderRecord, find_orders

# Of one user: more than they have by default, so that hardly anybody is read in parts.
ACCOUNTS_AT_ONCE = 250
# Of one who has more, and is read by themselves.
PAGE = 500


@dataclass(frozen=True, slots=True)
class UserReading:
    """Users as they are now in the database; `usernames` are certain by it, who is not among `users` does not exist.

    `large` are those who have more accounts than were read.
    """

    usernames: Sequence[str] = ()
    users: Sequence[KnownUser] = ()
    accounts: Sequence[AccountState] = ()
    orders: Sequence[OrderRecord] = ()
    large: Sequence[KnownUser] = ()


async def read_users(connection: Connection, names: Sequence[str]) -> UserReading:
    """Reads these users, by their names in lower case, and of each the newest accounts, ACCOUNTS_AT_ONCE at most.

    In the transaction of a change, what it has opened is among them.
    """
    users = await pages.users_named(connection, names)
    accounts = await pages.newest_accounts_of_users(connection, [user.id for user in users], ACCOUNTS_AT_ONCE)
    orders = await _opening_orders(connection, accounts)
    numbers = {user.id: 0 for user in users}
    for account in accounts:
        numbers[account.user_id or 0] += 1
    large = [user for user in users if numbers[user.id] >= ACCOUNTS_AT_ONCE]
    uncertain = {user.username.lower() for user in large}
    return UserReading([name for name in names if name not in uncertain], users, accounts, orders, large)


async def read_page(connection: Connection, username: str, after: int) -> UserReading:
    """Reads the next of a user's accounts behind this one. With the last of them the user is certain."""
    users = await pages.users_named(connection, [username])
    accounts = await pages.accounts_of_user_after(connection, users[0].id, after, PAGE) if len(users) == 1 else []
    orders = await _opening_orders(connection, accounts)
    is_last = len(accounts) < PAGE
    return UserReading([username] if is_last else (), users, accounts, orders)


def remember_certain(store: Store, reading: UserReading) -> None:
    """Remembers what was read, in the store's thread."""
    with store.transaction(durable=False):
        store.remember_users(reading.users)
        store.remember_accounts(reading.accounts)
        store.remember_orders(reading.orders)
        for username in reading.usernames:
            store.clear_uncertain(username)


async def _opening_orders(connection: Connection, accounts: Sequence[AccountState]) -> list[OrderRecord]:
    ids = await pages.opening_orders_of_accounts(connection, [account.id for account in accounts])
    return list((await find_orders(connection, ids)).values())
