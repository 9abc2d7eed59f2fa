"""What a restoration did, or would do, as the operator reads it."""

from decimal import Decimal
from typing import Self
from uuid import UUID

import msgspec

from aiopypay.stand_in.records import Entry
from aiopypay.store.orders import OrderRecord


class Unplaced(msgspec.Struct, frozen=True):
    """An order that was answered as booked or accepted, and cannot be booked in the database that was put in place."""

    order_id: UUID
    user_id: int
    from_account_id: int
    to_account_id: int
    amount: Decimal
    reason: str

    @classmethod
    def of_record(cls, record: OrderRecord, reason: str) -> Self:
        """One that had been booked."""
        first = record.transfers[0] if record.transfers else None
        if first is None:
            return cls(record.id, record.user_id, 0, 0, Decimal(0), reason)
        return cls(record.id, record.user_id, first.from_account_id, first.to_account_id, first.amount, reason)

    @classmethod
    def of_entry(cls, entry: Entry, reason: str) -> Self:
        """One that had been accepted."""
        order = entry.order
        return cls(order.id, order.user_id, order.from_account_id, order.to_account_id, order.amount, reason)


class Report(msgspec.Struct):
    """How much was made and booked again, who is somebody else by now, and what could not be booked."""

    currencies_added: int = 0
    users_added: int = 0
    users_renewed: int = 0
    accounts_added: int = 0
    orders_found: int = 0
    orders_booked: int = 0
    strangers: list[str] = []
    unplaced: list[Unplaced] = []

    def told(self) -> str:
        """Returns it in one line."""
        return (
            f"made again: {self.users_added} users, {self.accounts_added} accounts, {self.currencies_added} "
            f"currencies; {self.users_renewed} users got their newer password and rights back; orders: "
            f"{self.orders_found} were there, {self.orders_booked} booked again, {len(self.unplaced)} unplaced"
        )
