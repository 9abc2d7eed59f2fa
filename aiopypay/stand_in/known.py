"""What the node remembers of PostgreSQL: accounts, users and currencies; and its own settings."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from msgspec.structs import replace

from aiopypay import money
from aiopypay.ledger import Currency
from aiopypay.stand_in import formats
from aiopypay.stand_in.records import KnownAccount, KnownUser
from aiopypay.stand_in.rows import LISTED_KEYS, Row
from aiopypay.stand_in.uncertain import Uncertain
from aiopypay.store.accounts import AccountState

SELECT_SETTING = "SELECT name, value, checksum FROM settings WHERE name = ?"
WRITE_SETTING = "INSERT OR REPLACE INTO settings (name, value, checksum) VALUES (?, ?, ?)"

# One row: for each row that is fetched the event loop's thread may take its turn, and a batch needs many accounts.
SELECT_ACCOUNTS = """
SELECT json_group_array(json_array(id, user_id, hex(content), hex(checksum))) FROM accounts
WHERE id IN (SELECT value FROM json_each(?))
"""
SELECT_ACCOUNTS_OF_USER = """
SELECT id, user_id, content, checksum FROM accounts WHERE user_id = ? AND id > ? ORDER BY id LIMIT ?
"""
WRITE_ACCOUNT = """
INSERT INTO accounts (id, user_id, content, checksum) VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id, content = excluded.content, checksum = excluded.checksum
"""

SELECT_SOME_ACCOUNTS = "SELECT id, user_id, content, checksum FROM accounts WHERE id > ? ORDER BY id LIMIT 5000"
# Below the lowest id there can be.
ANY_ID = -(2**63)
SELECT_ACCOUNTS_AFTER = "SELECT id, user_id, content, checksum FROM accounts WHERE id > ? ORDER BY id LIMIT ?"
DELETE_ACCOUNT = "DELETE FROM accounts WHERE id = ?"

SELECT_USERS = "SELECT id, name, content, checksum FROM users WHERE id IN (SELECT value FROM json_each(?))"
SELECT_SOME_USERS = "SELECT id, name, content, checksum FROM users WHERE id > ? ORDER BY id LIMIT 5000"
SELECT_USERS_AFTER = "SELECT id, name, content, checksum FROM users WHERE id > ? ORDER BY id LIMIT ?"
DELETE_USER = "DELETE FROM users WHERE id = ?"
SELECT_USERS_BY_NAME = f"SELECT id, name, content, checksum FROM users WHERE name IN ({LISTED_KEYS})"  # noqa: S608
WRITE_USER = """
INSERT INTO users (id, name, content, checksum) VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, content = excluded.content, checksum = excluded.checksum
"""

SELECT_CURRENCIES = "SELECT position, id, content, checksum FROM currencies ORDER BY position"
WRITE_CURRENCY = "INSERT OR REPLACE INTO currencies (position, id, content, checksum) VALUES (?, ?, ?, ?)"


class Known(Uncertain):
    """The part of the store that remembers. Moments come back in UTC."""

    def setting(self, name: str) -> str | None:
        """Returns the value of a setting; None when it was never set."""
        rows = self._rows("settings", SELECT_SETTING, (name,))
        return rows[0][1] if rows else None

    def set_setting(self, name: str, value: str) -> None:
        """Sets a setting."""
        self._remove("settings", self._rows("settings", SELECT_SETTING, (name,)))
        self._add("settings", WRITE_SETTING, [(name, value)])

    def remember_accounts(self, accounts: Iterable[AccountState | KnownAccount]) -> None:
        """Keeps accounts as PostgreSQL told them. An older version, or the same, never replaces what is known.

        `pending` and `debit` are the journal's and are not taken from here. An account that a batch changed is kept
        even if nothing else is known of its owner: a page read before the batch must not come in after it.
        """
        newest: dict[int, AccountState | KnownAccount] = {}
        for account in accounts:
            if account.id not in newest or newest[account.id].version < account.version:
                newest[account.id] = account
        rows = self._account_rows(newest)
        versions = {account_id: formats.account_version(row[2]) for account_id, row in rows.items()}
        self._replace_accounts(
            rows, [account for account in newest.values() if account.version > versions.get(account.id, -1)]
        )

    def change_amounts(self, changes: Mapping[int, Decimal]) -> None:
        """Adds to the amounts of those of the accounts that are known. Their versions stay: PostgreSQL's are higher."""
        rows = self._account_rows(changes)
        known = [formats.decode_account(row[2]) for row in rows.values()]
        with money.exact():
            self._replace_accounts(
                rows, [replace(account, amount=account.amount + changes[account.id]) for account in known]
            )

    def forget_accounts(self, *, above: int = ANY_ID) -> None:
        """Forgets all accounts, or those with higher ids; the journal's entries are kept."""
        while rows := self._rows("accounts", SELECT_SOME_ACCOUNTS, (above,)):
            self._write(DELETE_ACCOUNT, [(row[0],) for row in rows])
            self._remove("accounts", rows)

    def forget_users(self, *, above: int = ANY_ID) -> None:
        """Forgets all users, or those with higher ids."""
        while rows := self._rows("users", SELECT_SOME_USERS, (above,)):
            self._write(DELETE_USER, [(row[0],) for row in rows])
            self._remove("users", rows)

    def account(self, account_id: int) -> KnownAccount | None:
        """Returns an account; None when it is not known here."""
        return self.accounts([account_id]).get(account_id)

    def accounts(self, account_ids: Iterable[int]) -> dict[int, KnownAccount]:
        """Returns those of the accounts that are known here, by id."""
        return {account_id: self._account(row) for account_id, row in self._account_rows(account_ids).items()}

    def accounts_of_user(self, user_id: int, after: int, limit: int) -> list[KnownAccount]:
        """Returns the next accounts of a user behind this id, by id."""
        found = self._rows("accounts", SELECT_ACCOUNTS_OF_USER, (user_id, after, limit))
        return [self._account(row) for row in found]

    def accounts_after(self, account_id: int, limit: int) -> list[KnownAccount]:
        """Returns the next accounts behind this id."""
        return [self._account(row) for row in self._rows("accounts", SELECT_ACCOUNTS_AFTER, (account_id, limit))]

    def users_after(self, user_id: int, limit: int) -> list[KnownUser]:
        """Returns the next users behind this id."""
        return [formats.decode_user(row[2]) for row in self._rows("users", SELECT_USERS_AFTER, (user_id, limit))]

    def remember_users(self, users: Iterable[KnownUser]) -> None:
        """Keeps users as PostgreSQL told them. One changed earlier than what is known never replaces it."""
        newest: dict[int, KnownUser] = {}
        for user in users:
            if user.id not in newest or newest[user.id].version <= user.version:
                newest[user.id] = user
        rows = {row[0]: row for row in self._rows("users", SELECT_USERS, (json.dumps(list(newest)),))}
        for user_id, row in rows.items():
            if formats.decode_user(row[2]).version > newest[user_id].version:
                del newest[user_id]
        self._remove("users", [row for user_id, row in rows.items() if user_id in newest])
        self._add(
            "users",
            WRITE_USER,
            [(user.id, user.username.lower(), formats.encode_user(user)) for user in newest.values()],
        )

    def user_by_name(self, username: str) -> KnownUser | None:
        """Returns the user of this name in any case; None when they are not known here."""
        return self.users_by_name([username.lower()]).get(username.lower())

    def users_by_name(self, usernames: Sequence[str]) -> dict[str, KnownUser]:
        """Returns those of the users with these names, in lower case, who are known here, by name.

        A name that two users have had, as far as is known here, is nobody's.
        """
        rows = list(self._rows_of("users", SELECT_USERS_BY_NAME, usernames))
        times = Counter(row[1] for row in rows)
        return {row[1]: formats.decode_user(row[2]) for row in rows if times[row[1]] == 1}

    def user(self, user_id: int) -> KnownUser | None:
        """Returns a user; None when they are not known here."""
        rows = self._rows("users", SELECT_USERS, (json.dumps([user_id]),))
        return formats.decode_user(rows[0][2]) if rows else None

    def users(self, user_ids: Iterable[int]) -> dict[int, KnownUser]:
        """Returns those of the users who are known here, by id."""
        rows = self._rows("users", SELECT_USERS, (json.dumps(list(user_ids)),))
        return {row[0]: formats.decode_user(row[2]) for row in rows}

    def counts(self) -> tuple[int, int]:
        """Returns how many accounts and how many users are known."""
        return self._seal.counts.get("accounts", 0), self._seal.counts.get("users", 0)

    def remember_currencies(self, currencies: Iterable[Currency]) -> None:
        """Keeps currencies, in place of what was known; the place of a known one stays."""
        rows = {row[1]: row for row in self._rows("currencies", SELECT_CURRENCIES)}
        last = max((row[0] for row in rows.values()), default=0)
        for currency in {currency.id: currency for currency in currencies}.values():
            known = rows.get(currency.id)
            last += known is None
            row = (known[0] if known else last, currency.id, formats.encode_currency(currency))
            self._remove("currencies", [known] if known else [])
            self._add("currencies", WRITE_CURRENCY, [row])

    def currencies(self) -> list[Currency]:
        """Returns the currencies in the order in which they were remembered first."""
        return [formats.decode_currency(row[2]) for row in self._rows("currencies", SELECT_CURRENCIES)]

    def _account_rows(self, account_ids: Iterable[int]) -> dict[int, Row]:
        found = self._packed_rows("accounts", SELECT_ACCOUNTS, (json.dumps(list(account_ids)),))
        return {row[0]: row for row in found}

    def _replace_accounts(self, rows: Mapping[int, Row], accounts: Sequence[AccountState | KnownAccount]) -> None:
        self._remove("accounts", [rows[account.id] for account in accounts if account.id in rows])
        self._add("accounts", WRITE_ACCOUNT, [_account_row(account) for account in accounts])

    def _account(self, row: Row) -> KnownAccount:
        sums = self._effects.of(row[0])
        return replace(
            formats.decode_account(row[2]),
            pending=sums.change,
            debit=sums.debit,
            held_credit=sums.held_credit,
            held_debit=sums.held_debit,
        )


def _account_row(account: AccountState | KnownAccount) -> tuple[int, int | None, bytes]:
    return account.id, account.user_id, formats.encode_account(account)
