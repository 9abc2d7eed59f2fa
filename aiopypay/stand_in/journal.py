"""The journal of accepted orders, and the plans of batches whose outcome is not recorded."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from aiopypay.stand_in.failures import DuplicateEntry
from aiopypay.stand_in.formats import decode_entry, decode_plan, encode_entry, encode_plan
from aiopypay.stand_in.records import Entry, JournalEntry, Plan, State
from aiopypay.stand_in.rows import LISTED_KEYS, Row, Rows

SELECT_PLANS = "SELECT id, content, checksum FROM plan ORDER BY id"
# What is withdrawn was written by this process: its content is not read again.
SELECT_PLAN_CHECKSUM = "SELECT id, checksum FROM plan WHERE id = ?"
INSERT_PLAN = "INSERT INTO plan (id, content, checksum) VALUES (?, ?, ?)"
DELETE_PLAN = "DELETE FROM plan WHERE id = ?"

_COLUMNS = "sequence, order_id, content, link, state, reason, settled_at, checksum"
SELECT_BY_ORDER = f"SELECT {_COLUMNS} FROM journal WHERE order_id = ?"  # noqa: S608 - columns of ours
SELECT_BY_ORDERS = f"SELECT {_COLUMNS} FROM journal WHERE order_id IN ({LISTED_KEYS})"  # noqa: S608
SELECT_BETWEEN = f"SELECT {_COLUMNS} FROM journal WHERE order_id BETWEEN ? AND ?"  # noqa: S608
SELECT_BY_STATE = f"""
SELECT {_COLUMNS} FROM journal WHERE state = ? AND sequence > ? ORDER BY sequence LIMIT ?
"""  # noqa: S608
SELECT_AFTER = f"SELECT {_COLUMNS} FROM journal WHERE sequence > ? ORDER BY sequence LIMIT ?"  # noqa: S608
SELECT_SEQUENCES = f"""
SELECT {_COLUMNS} FROM journal WHERE sequence IN (SELECT value FROM json_each(?)) ORDER BY sequence
"""  # noqa: S608
INSERT_ENTRY = f"INSERT INTO journal ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
# What never changes is bound all the same: so it is one statement for many rows.
UPDATE_OUTCOME = f"""
INSERT INTO journal ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (sequence) DO UPDATE SET
    state = excluded.state, reason = excluded.reason, settled_at = excluded.settled_at, checksum = excluded.checksum
"""  # noqa: S608
DELETE_ENTRY = "DELETE FROM journal WHERE sequence = ?"

PRUNED_AT_ONCE = 5000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Journal(Rows):
    """The part of the store that holds what must be booked. All of it raises StoreDamaged in a damaged store,
    but for `entry` and `entries`: these return what verifies."""

    def write_plan(self, number: int, plan: Plan) -> None:
        """Keeps the plan of the batch about to be committed. Raises sqlite3.IntegrityError for a number in use."""
        self._add("plan", INSERT_PLAN, [(number, encode_plan(plan))])

    def has_plan(self, number: int) -> bool:
        """Tells whether this plan is there."""
        return bool(self._found("plan", SELECT_PLAN_CHECKSUM, (number,)))

    def withdraw_plans(self, numbers: Iterable[int]) -> None:
        """Drops plans, those of them that are there."""
        rows = [row for number in numbers for row in self._found("plan", SELECT_PLAN_CHECKSUM, (number,))]
        self._write(DELETE_PLAN, [(row[0],) for row in rows])
        self._remove("plan", rows)

    def plans(self) -> dict[int, Plan]:
        """Returns the plans by their number, in the order in which they were written."""
        self._require_sound()
        rows = self._rows("plan", SELECT_PLANS)
        self._require_sound()
        return {row[0]: decode_plan(row[1]) for row in rows}

    def append(self, entries: Sequence[Entry]) -> None:
        """Adds entries to the journal's tail, in their order. Raises DuplicateEntry for an order id it holds."""
        rows = []
        for entry in entries:
            content = encode_entry(entry)
            self._seal.last += 1
            self._seal.last_link = self._checksums.link(self._seal.last_link, self._seal.last, content)
            rows.append((self._seal.last, entry.order.id.bytes, content, self._seal.last_link, "pending", None, None))
        try:
            self._add("journal", INSERT_ENTRY, rows)
        except sqlite3.IntegrityError as error:
            raise DuplicateEntry("the journal holds an entry under one of these order ids") from error
        self._seal.pending += len(rows)
        self._effects.add(entries)

    def entry(self, order_id: UUID) -> JournalEntry | None:
        """Returns the entry of an order; None when there is none here."""
        rows = self._rows("journal", SELECT_BY_ORDER, (order_id.bytes,))
        return journal_entry(rows[0]) if rows else None

    def entries_of(self, order_ids: Iterable[UUID]) -> dict[UUID, JournalEntry]:
        """Returns the entries of these orders, by the order's id."""
        found = self._rows_of("journal", SELECT_BY_ORDERS, [order_id.bytes for order_id in order_ids])
        return {entry.entry.order.id: entry for entry in map(journal_entry, found)}

    def entries_between(self, lowest: UUID, highest: UUID) -> list[JournalEntry]:
        """Returns the entries of orders whose ids lie between these."""
        return [journal_entry(row) for row in self._rows("journal", SELECT_BETWEEN, (lowest.bytes, highest.bytes))]

    def pending(self, limit: int) -> list[JournalEntry]:
        """Returns at most `limit` entries without an outcome, the oldest first."""
        self._require_sound()
        found = self.entries("pending", limit)
        self._require_sound()
        return found

    def pending_count(self) -> int:
        """Returns how many entries are without an outcome."""
        return self._seal.pending

    def pending_of(self, user_id: int) -> int:
        """Returns how many of these are this user's."""
        return self._effects.orders_of(user_id)

    def oldest_pending(self) -> JournalEntry | None:
        """Returns the first entry without an outcome."""
        return next(iter(self.entries("pending", 1)), None)

    def entries(self, state: State | None, limit: int, after_sequence: int = 0) -> list[JournalEntry]:
        """Returns at most `limit` entries in this state (None: in any) behind a sequence, in their order."""
        if state is None:
            rows = self._rows("journal", SELECT_AFTER, (after_sequence, limit))
        else:
            rows = self._rows("journal", SELECT_BY_STATE, (state, after_sequence, limit))
        return [journal_entry(row) for row in rows]

    def touches(self, account_id: int) -> bool:
        """Tells whether an entry without an outcome changes the account."""
        return self._effects.touch(account_id)

    def mark_posted(self, sequences: Iterable[int], at: datetime) -> list[Entry]:
        """Gives pending entries the outcome that they are booked, and returns them. Those that have it are left.

        Raises ValueError for an entry that is not there or has another outcome.
        """
        return self._move(sequences, "pending", ("posted", None, _microseconds(at)))

    def mark_refused(self, sequence: int, reason: str, at: datetime) -> None:
        """Gives a pending entry the outcome that it was refused. Raises ValueError as `mark_posted` does."""
        self._move([sequence], "pending", ("refused", reason, _microseconds(at)))

    def mark_unplaced(self, sequence: int, reason: str, at: datetime) -> None:
        """Gives an entry the outcome that it cannot be booked in the database that was put in place.

        Raises ValueError for an entry that is not there or was refused.
        """
        outcome: tuple[State, str, int] = ("unplaced", reason, _microseconds(at))
        [row] = self._rows("journal", SELECT_SEQUENCES, (json.dumps([sequence]),)) or [(None,) * 8]
        self._move([sequence], "posted" if row[4] == "posted" else "pending", outcome)

    def prune(self, settled_before: datetime, limit: int = PRUNED_AT_ONCE) -> int:
        """Drops entries settled before a moment from the journal's head, up to the first that is not; tells how many.

        At most `limit` at once. What is left stays chained to what was dropped.
        """
        head = self._rows("journal", SELECT_AFTER, (self._seal.base, limit))
        before = _microseconds(settled_before)
        kept = next((place for place, row in enumerate(head) if row[6] is None or row[6] >= before), len(head))
        dropped = head[:kept]
        if dropped:
            self._write(DELETE_ENTRY, [(row[0],) for row in dropped])
            self._remove("journal", dropped)
            self._seal.base, self._seal.base_link = dropped[-1][0], dropped[-1][3]
        return len(dropped)

    def _move(
        self, sequences: Iterable[int], origin: State, outcome: tuple[State, str | None, int | None]
    ) -> list[Entry]:
        wanted = sorted(set(sequences))
        found = self._rows("journal", SELECT_SEQUENCES, (json.dumps(wanted),))
        self._require_sound()
        wrong = {row[0] for row in found if row[4] not in (origin, outcome[0])} | {*wanted} - {row[0] for row in found}
        if wrong:
            raise ValueError(f"entries {sorted(wrong)} are not {origin}")
        rows = [row for row in found if row[4] == origin]
        self._remove("journal", rows)
        self._add("journal", UPDATE_OUTCOME, [(*row[:4], *outcome) for row in rows])
        entries = [decode_entry(row[2]) for row in rows]
        if origin == "pending":
            self._seal.pending -= len(rows)
            self._effects.remove(entries)
        return entries


def journal_entry(row: Row) -> JournalEntry:
    """Returns a verified row of the journal as a record."""
    sequence, _, content, _, state, reason, settled_at, _ = row
    moment = None if settled_at is None else _EPOCH + settled_at * _MICROSECOND
    return JournalEntry(sequence, decode_entry(content), state, reason, moment)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
