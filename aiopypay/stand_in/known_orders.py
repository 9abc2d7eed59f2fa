"""The orders whose outcome the node knows, so that a retry gets its original answer."""

from collections.abc import Iterable
from uuid import UUID

from aiopypay.stand_in.checksums import ROW_BYTES
from aiopypay.stand_in.formats import decode_order, encode_order
from aiopypay.stand_in.known import Known
from aiopypay.stand_in.rows import LISTED_KEYS
from aiopypay.store.orders import OrderRecord

ORDERS_MAX = 1_000_000
# Dropping an order costs as much as remembering one, for its id is anywhere in the index. So it is put off until there
# is time for it, or so many are too many.
ORDERS_SPARE = 0.25
TRIMMED_AT_ONCE = 500

SELECT_ORDER = "SELECT position, id, content, checksum FROM orders WHERE id = ?"
SELECT_ORDERS = f"""
SELECT position, id, content, checksum FROM orders WHERE id IN ({LISTED_KEYS})
"""  # noqa: S608 - question marks of ours
SELECT_ORDERS_BETWEEN = "SELECT position, id, content, checksum FROM orders WHERE id BETWEEN ? AND ?"
SELECT_NEWEST_ORDER = "SELECT position, id, content, checksum FROM orders ORDER BY position DESC LIMIT 1"
SELECT_OLDEST_ORDER = "SELECT position, id, content, checksum FROM orders ORDER BY position LIMIT 1"
SELECT_ORDERS_AFTER = "SELECT position, id, content, checksum FROM orders WHERE position > ? ORDER BY position LIMIT ?"
# What is dropped is not read: the checksums alone, for the seal.
SELECT_OLDEST_ORDERS = """
SELECT max(position), group_concat(hex(checksum), '')
FROM (SELECT position, checksum FROM orders ORDER BY position LIMIT ?)
"""
WRITE_ORDER = """
INSERT INTO orders (position, id, content, checksum) VALUES (?, ?, ?, ?)
ON CONFLICT (position) DO UPDATE SET content = excluded.content, checksum = excluded.checksum
"""
DELETE_ORDER = "DELETE FROM orders WHERE position = ?"
DELETE_OLDEST_ORDERS = "DELETE FROM orders WHERE position <= ?"

ORDERS_TRIMMED = "orders_trimmed"


class KnownOrders(Known):
    """The part of the store that remembers orders."""

    orders_max = ORDERS_MAX

    def remember_orders(self, orders: Iterable[OrderRecord]) -> None:
        """Keeps orders with their outcome, in place of what was known under their ids.

        The newest `orders_max` at least are kept; once others were dropped the setting "orders_trimmed" is "yes".
        """
        by_id = {order.id.bytes: encode_order(order) for order in orders}
        known = {row[1]: row for row in self._rows_of("orders", SELECT_ORDERS, list(by_id))}
        newest = self._rows("orders", SELECT_NEWEST_ORDER)
        position = newest[0][0] if newest else 0
        rows = []
        for order_id, content in by_id.items():
            position += order_id not in known
            rows.append((known[order_id][0] if order_id in known else position, order_id, content))
        self._remove("orders", known.values())
        self._add("orders", WRITE_ORDER, rows)
        self._trim_if_full()

    def remember_older_orders(self, orders: Iterable[OrderRecord]) -> None:
        """Keeps orders that are older than all that are known, newest first; what there is no room for is dropped."""
        by_id = {order.id.bytes: encode_order(order) for order in orders}
        for row in self._rows_of("orders", SELECT_ORDERS, list(by_id)):
            by_id.pop(row[1], None)
        oldest = self._rows("orders", SELECT_OLDEST_ORDER)
        position = oldest[0][0] if oldest else 1
        self._add("orders", WRITE_ORDER, [(position - n, *row) for n, row in enumerate(by_id.items(), start=1)])
        self._trim_if_full()

    def order_count(self) -> int:
        """Returns how many orders are known."""
        return self._seal.counts.get("orders", 0)

    def order(self, order_id: UUID) -> OrderRecord | None:
        """Returns the order of this id; None when it is not known here."""
        rows = self._rows("orders", SELECT_ORDER, (order_id.bytes,))
        return decode_order(rows[0][2]) if rows else None

    def orders(self, order_ids: Iterable[UUID]) -> dict[UUID, OrderRecord]:
        """Returns those of the orders that are known here, by id."""
        found = self._rows_of("orders", SELECT_ORDERS, [order_id.bytes for order_id in order_ids])
        return {record.id: record for record in (decode_order(row[2]) for row in found)}

    def orders_after(self, position: int, limit: int) -> tuple[list[OrderRecord], int | None]:
        """Returns the next orders behind a position, and the last one's (None: there are no more)."""
        rows = self._rows("orders", SELECT_ORDERS_AFTER, (position, limit))
        return [decode_order(row[2]) for row in rows], rows[-1][0] if rows else None

    def forget_orders_of(self, order_ids: Iterable[UUID]) -> None:
        """Forgets these orders."""
        rows = list(self._rows_of("orders", SELECT_ORDERS, [order_id.bytes for order_id in order_ids]))
        self._write(DELETE_ORDER, [(row[0],) for row in rows])
        self._remove("orders", rows)

    def orders_between(self, lowest: UUID, highest: UUID) -> list[OrderRecord]:
        """Returns the orders whose ids lie between these."""
        rows = self._rows("orders", SELECT_ORDERS_BETWEEN, (lowest.bytes, highest.bytes))
        return [decode_order(row[2]) for row in rows]

    def has_excess_orders(self) -> bool:
        """Tells whether more orders are kept than `orders_max`."""
        return self._excess_orders() > 0

    def trim_orders(self) -> None:
        """Drops the oldest of the excess orders, TRIMMED_AT_ONCE at most."""
        self._drop_orders(min(self._excess_orders(), TRIMMED_AT_ONCE))

    def _excess_orders(self) -> int:
        return self.order_count() - self.orders_max

    def _trim_if_full(self) -> None:
        self._drop_orders(self._excess_orders() - int(ORDERS_SPARE * self.orders_max))

    def _drop_orders(self, number: int) -> None:
        if number <= 0:
            return
        [(last, digits)] = self._found("orders", SELECT_OLDEST_ORDERS, (number,)) or [(0, "")]
        checksums = bytes.fromhex(digits)
        self._write(DELETE_OLDEST_ORDERS, [(last,)])
        self._seal.remove("orders", [checksums[at : at + ROW_BYTES] for at in range(0, len(checksums), ROW_BYTES)])
        if self.setting(ORDERS_TRIMMED) is None:
            self.set_setting(ORDERS_TRIMMED, "yes")
