"""What the node remembers, but may have changed since: it is not relied upon until it was read anew."""

from collections.abc import Iterable, Sequence

from aiopypay.stand_in.rows import LISTED_KEYS, Row, Rows
from aiopypay.store.change_log import Change, Table

SELECT_UNCERTAIN = f"SELECT name, checksum FROM uncertain WHERE name IN ({LISTED_KEYS})"  # noqa: S608 - question marks
SELECT_UNCERTAIN_BETWEEN = "SELECT name, checksum FROM uncertain WHERE name >= ? AND name < ? ORDER BY name LIMIT ?"
WRITE_UNCERTAIN = "INSERT INTO uncertain (name, checksum) VALUES (?, ?)"
DELETE_UNCERTAIN = "DELETE FROM uncertain WHERE name = ?"

# No user's name begins so. Behind it stand a table and the id of a row, or the table alone.
CHANGED = "#"
BEHIND_CHANGED = "$"
ALL = 1_000_000_000


class Uncertain(Rows):
    """The part of the store that says what is uncertain: users, by name, whose change was begun by this node, and what
    others have changed: accounts and users by id, the currencies, or all of a table."""

    def mark_uncertain(self, username: str) -> None:
        """Notes that what is known of this user may be about to change."""
        self._mark([username.lower()])

    def uncertain(self, limit: int = ALL) -> list[str]:
        """Returns names, in lower case, of users whose change was begun here and is not known to have ended."""
        names = self._between("", CHANGED, limit) + self._between(BEHIND_CHANGED, "\U0010ffff", limit)
        return [row[0] for row in names[:limit]]

    def is_uncertain(self, username: str) -> bool:
        """Tells whether what is known of this user may have changed."""
        return bool(self.uncertain_names([username.lower()]))

    def uncertain_names(self, usernames: Sequence[str]) -> set[str]:
        """Returns which of these names, in lower case, are uncertain."""
        return {row[0] for row in self._marks(usernames)}

    def clear_uncertain(self, username: str) -> None:
        """Notes that what is known of this user holds again."""
        self._clear([username.lower()])

    def mark_changed(self, changes: Iterable[Change]) -> None:
        """Notes that others have changed this."""
        self._mark([_key(change) for change in changes])

    def changed(self, limit: int = ALL) -> list[Change]:
        """Returns what others have changed and was not read since, `limit` at most; whole tables first."""
        return [_change(row[0]) for row in self._between(CHANGED, BEHIND_CHANGED, limit)]

    def clear_changed(self, changes: Iterable[Change]) -> None:
        """Notes that this was read."""
        self._clear([_key(change) for change in changes])

    def changed_accounts(self, account_ids: Iterable[int]) -> set[int]:
        """Returns which of these accounts others have changed."""
        return self._changed_among("accounts", account_ids)

    def changed_users(self, user_ids: Iterable[int]) -> set[int]:
        """Returns which of these users others have changed."""
        return self._changed_among("users", user_ids)

    def has_changed(self, table: Table) -> bool:
        """Tells whether any row of this table is marked as changed."""
        prefix = f"{CHANGED}{table}"
        return self.uncertain_count() > 0 and bool(self._between(prefix, prefix + "~", 1))

    def uncertain_count(self) -> int:
        """Returns how much is uncertain."""
        return self._seal.counts.get("uncertain", 0)

    def _changed_among(self, table: Table, row_ids: Iterable[int]) -> set[int]:
        ids = list(row_ids)
        changed = {_change(row[0])[1] for row in self._marks([_key((table, row_id)) for row_id in (None, *ids)])}
        return {row_id for row_id in ids if row_id in changed or None in changed}

    def _mark(self, names: Sequence[str]) -> None:
        known = {row[0] for row in self._marks(names)}
        self._add("uncertain", WRITE_UNCERTAIN, [(name,) for name in dict.fromkeys(names) if name not in known])

    def _clear(self, names: Sequence[str]) -> None:
        rows = self._marks(names)
        self._write(DELETE_UNCERTAIN, [(row[0],) for row in rows])
        self._remove("uncertain", rows)

    def _marks(self, names: Sequence[str]) -> list[Row]:
        """There are hardly ever any, and each batch without the database asks."""
        return list(self._rows_of("uncertain", SELECT_UNCERTAIN, names)) if self.uncertain_count() else []

    def _between(self, first: str, behind: str, limit: int) -> list[Row]:
        return self._rows("uncertain", SELECT_UNCERTAIN_BETWEEN, (first, behind, limit))


def _key(change: Change) -> str:
    table, row_id = change
    return f"{CHANGED}{table}" if row_id is None else f"{CHANGED}{table} {row_id}"


def _change(key: str) -> Change:
    table, _, row_id = key.removeprefix(CHANGED).partition(" ")
    return table, int(row_id) if row_id else None  # type: ignore[return-value]
