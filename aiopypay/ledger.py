"""The ledger rule: pure, without I/O, clock or ids. Online, stand-in and settling call the same function."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from aiopypay import errors, money

SUPERUSER_ID = 1

Kind = Literal["payment", "internal", "commission", "deposit", "withdrawal", "opening"]
COMMENTS: dict[Kind, str] = {
    "payment": "External payment",
    "internal": "Internal transfer",
    "commission": "Commission",
    "deposit": "Deposit",
    "withdrawal": "Withdrawal",
    "opening": "Opening balance",
}


@dataclass(frozen=True, slots=True)
class Currency:
    """`commission` is a rate (0.01 is one per cent); `decimals` of the major unit.

    `commission_account_id` is the superuser's account in this currency; `external_account_id` stands
    for the world outside, so that all balances of the currency sum to zero.
    """

    id: str
    description: str
    commission: Decimal
    decimals: int
    commission_account_id: int
    external_account_id: int


@dataclass(frozen=True, slots=True)
class Account:
    """An account with an owner, as it is in this moment."""

    id: int
    user_id: int
    currency_id: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class TransferOrder:
    """What a user asked for. Its id exists before the database is first touched.

    `fingerprint` tells two contents under one id apart. An order accepted without the database carries the moment
    and the commission rate of its acceptance; both are None otherwise.
    """

    id: UUID
    user_id: int
    from_account_id: int
    to_account_id: int
    amount: Decimal
    comment: str | None
    fingerprint: bytes
    idempotency_key: str | None = None
    accepted_at: datetime | None = None
    commission_rate: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Transfer:
    """Money that moves from one account to another, not yet booked."""

    kind: Kind
    from_account_id: int
    to_account_id: int
    amount: Decimal
    comment: str


def plan_transfers(
    order: TransferOrder, source: Account | None, target: Account | None, currency: Currency | None
) -> tuple[Transfer, ...]:
    """Returns the transfers to book: the payment, and its commission where one is due.

    `source` and `target` are the accounts that `order` names, None where there is none; `currency` is the
    one of `source`. The guards stand in the order of the contract ("Rules of a transfer"). Raises
    InvalidRequest, UnknownAccount, Forbidden, SameAccount, CurrencyMismatch, InsufficientFunds.
    """
    if currency and money.decimals_of(order.amount) > currency.decimals:
        raise errors.InvalidRequest(f"amount: {currency.id} has at most {currency.decimals} decimals", field="amount")
    if source is None or currency is None:
        raise errors.UnknownAccount(f"from: there is no account {order.from_account_id}", field="from")
    if target is None:
        raise errors.UnknownAccount(f"to: there is no account {order.to_account_id}", field="to")
    if source.user_id != order.user_id:
        raise errors.Forbidden(f"from: account {source.id} is not yours", field="from")
    if source.id == target.id:
        raise errors.SameAccount("to: must differ from the account in from", field="to")
    if source.currency_id != target.currency_id:
        raise errors.CurrencyMismatch(
            f"to: account {target.id} is in {target.currency_id}, account {source.id} in {source.currency_id}",
            field="to",
        )
    with money.exact():
        commission = commission_of(order, source, target, currency)
        if source.amount < order.amount + commission:
            raise errors.InsufficientFunds(_shortage(order.amount, commission, source, currency))
    return tuple(_transfers(order, source, target, currency, commission))


def commission_of(order: TransferOrder, source: Account, target: Account, currency: Currency) -> Decimal:
    """Returns the commission on top of a payment: amount × rate, rounded up to the currency's decimals.

    None (0) between accounts of one user, and none from the superuser.
    """
    if source.user_id in (target.user_id, SUPERUSER_ID):
        return Decimal(0)
    rate = currency.commission if order.commission_rate is None else order.commission_rate
    return money.round_up(order.amount * rate, currency.decimals)


def _transfers(
    order: TransferOrder, source: Account, target: Account, currency: Currency, commission: Decimal
) -> list[Transfer]:
    kind: Kind = "internal" if source.user_id == target.user_id else "payment"
    comment = COMMENTS[kind] if order.comment is None else order.comment
    transfers = [Transfer(kind, source.id, target.id, order.amount, comment)]
    if commission:
        transfers.append(
            Transfer("commission", source.id, currency.commission_account_id, commission, COMMENTS["commission"])
        )
    return transfers


def _shortage(amount: Decimal, commission: Decimal, source: Account, currency: Currency) -> str:
    have, need, fee = (
        money.in_decimals(value, currency.decimals) for value in (source.amount, amount + commission, commission)
    )
    return f"Account {source.id} holds {have} {currency.id}; {need} are needed, {fee} of them commission"
