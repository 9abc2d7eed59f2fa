"""From a request to an order: what a transfer is asked for with, alone or in a bulk, and the order that it makes."""

from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from aiopypay.answers import about
from aiopypay.fields import parse_comment, parse_id
from aiopypay.forms import form_field
from aiopypay.idempotency import fingerprint, parse_key
from aiopypay.ledger import TransferOrder
from aiopypay.money_fields import parse_amount

# Of an order that nobody can send again: there is nothing to tell its content from.
NO_CONTENT = b""


@about("A payment between two accounts of one currency.")
@dataclass(frozen=True, slots=True)
class TransferForm:
    """A transfer between two accounts; `amount` in the major unit of their currency."""

    from_account_id: int = form_field("from", parse_id, "The account that pays: one of your own.")
    to_account_id: int = form_field("to", parse_id, "The account that is paid.")
    amount: Decimal = form_field("amount", parse_amount, "How much; commission comes on top.")
    # Empty means the same as not sent. It is another content all the same: under a key it has been one from the start.
    comment: str | None = form_field("comment", parse_comment, "Words for both sides.", keeps_empty=True, default=None)


@about("One of many payments.")
@dataclass(frozen=True, slots=True)
class BulkTransferForm(TransferForm):
    """A transfer of a bulk; `key` is what the Idempotency-Key is to a transfer alone."""

    key: str | None = form_field("key", parse_key, "As the header `Idempotency-Key` of a payment alone.", default=None)


def content_of(form: TransferForm) -> bytes:
    """Returns the fingerprint of a transfer."""
    return fingerprint(
        "POST /users/{user_id}/transfers",
        from_account_id=form.from_account_id,
        to_account_id=form.to_account_id,
        amount=form.amount,
        comment=form.comment,
    )


def order_of(
    form: TransferForm, user_id: int, *, order_id: UUID, content: bytes, key: str | None, group: UUID | None = None
) -> TransferOrder:
    """Returns the order that a user's form makes under this id. `content` is the fingerprint of what was sent."""
    return TransferOrder(
        id=order_id,
        user_id=user_id,
        from_account_id=form.from_account_id,
        to_account_id=form.to_account_id,
        amount=form.amount,
        comment=form.comment or None,
        fingerprint=content,
        idempotency_key=key,
        group=group,
    )
