"""The ledger rule: pure, without I/O, clock or ids. Online, stand-in and settling call the same function.

Its records are structs: a batch makes thousands of them, and a frozen dataclass takes eight times as long. They hold
nothing that could lead back to them, so the garbage collector need not look (gc=False).
"""

from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

import msgspec

from aiopypay import errors, money

SUPERUSER_ID = 1
# No user has this id, and so no account is theirs.
NOBODY = 0

Kind = Literal["payment", "internal", "commission", "deposit", "withdrawal", "opening"]
COMMENTS: dict[Kind, str] = {
    "payment": "External payment",
    "internal": "Internal transfer",
    "commission": "Commission",
    "deposit": "Deposit",
    "withdrawal": "Withdrawal",
    "opening": "Opening balance",
}


class Currency(msgspec.Struct, frozen=True, gc=False):
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


class Account(msgspec.Struct, frozen=True, gc=False):
    """An account with an owner, as it is in this moment."""

    id: int
    user_id: int
    currency_id: str
    amount: Decimal


class TransferOrder(msgspec.Struct, frozen=True, gc=False):
    """What a user asked for. Its id exists before the database is first touched.

    A deposit comes from the currency's external account, a withdrawal goes to it; external accounts have negative
    ids. `account_user_id` is whose account it then is, where it is not the user's own: an admin may order for
    anyone, and whether they may is judged by who lets the order in. NOBODY's is the account of an order that may not
    be placed: it is refused, unless its id shows that it was placed before.

    `fingerprint` tells two contents under one id apart. An order accepted without the database carries the moment
    and the commission rate of its acceptance; both are None otherwise. Orders with one `group` are booked together or
    not at all.
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
    # Orders in older journals have neither.
    account_user_id: int | None = None
    group: UUID | None = None

    @property
    def is_deposit(self) -> bool:
        """Whether the money comes from outside."""
        return self.from_account_id < 0

    @property
    def is_withdrawal(self) -> bool:
        """Whether the money leaves."""
        return self.to_account_id < 0

    @property
    def account_ids(self) -> tuple[int, ...]:
        """The accounts that it is judged on, the receipt's first. External ones may hold anything and are not."""
        ids = (
            (self.to_account_id, self.from_account_id)
            if self.is_deposit
            else (self.from_account_id, self.to_account_id)
        )
        return tuple(account_id for account_id in ids if account_id > 0)

    @property
    def account_id(self) -> int:
        """The account whose balance the receipt tells: the paying one, and where that is external the paid one."""
        return self.to_account_id if self.is_deposit else self.from_account_id


class Transfer(msgspec.Struct, frozen=True, gc=False):
    """Money that moves from one account to another, not yet booked."""

    kind: Kind
    from_account_id: int
    to_account_id: int
    amount: Decimal
    comment: str


def plan_transfers(
    order: TransferOrder, source: Account | None, target: Account | None, currency: Currency | None
) -> tuple[Transfer, ...]:
    """Returns the transfers to book: the payment, and its commission where one is due; or the deposit or withdrawal.

    `source` and `target` are the accounts that `order` names, None where there is none, and None for an external one;
    `currency` is the one of the account that the receipt is about. The guards stand in the order of the contract
    ("Rules of a transfer"). Raises InvalidRequest, UnknownAccount, Forbidden, SameAccount, CurrencyMismatch,
    InsufficientFunds.
    """
    if order.is_deposit or order.is_withdrawal:
        return (_plan_cash(order, target if order.is_deposit else source, currency),)
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
            balance = money.in_decimals(source.amount, currency.decimals)
            raise errors.InsufficientFunds(_shortage(order.amount, commission, source, currency), balance=balance)
    return tuple(_transfers(order, source, target, currency, commission))


def _plan_cash(order: TransferOrder, account: Account | None, currency: Currency | None) -> Transfer:
    """A deposit or withdrawal: no commission, and the external account may go below zero."""
    if currency and money.decimals_of(order.amount) > currency.decimals:
        raise errors.InvalidRequest(f"value: {currency.id} has at most {currency.decimals} decimals", field="value")
    if account is None or currency is None:
        raise errors.UnknownAccount(f"account_id: there is no account {order.account_id}", field="account_id")
    owner_id = order.user_id if order.account_user_id is None else order.account_user_id
    if account.user_id != owner_id:
        raise errors.Forbidden(f"account_id: account {account.id} is not of user {owner_id}", field="account_id")
    if currency.external_account_id not in (order.from_account_id, order.to_account_id):
        raise errors.CurrencyMismatch(f"account_id: account {account.id} is in {currency.id}", field="account_id")
    with money.exact():
        if order.is_withdrawal and account.amount < order.amount:
            raise _not_enough(-order.amount, account, currency)
    kind: Kind = "deposit" if order.is_deposit else "withdrawal"
    comment = COMMENTS[kind] if order.comment is None else order.comment
    return Transfer(kind, order.from_account_id, order.to_account_id, order.amount, comment)


def _not_enough(value: Decimal, account: Account, currency: Currency) -> errors.InsufficientFunds:
    balance, written = (money.in_decimals(amount, currency.decimals) for amount in (account.amount, value))
    return errors.InsufficientFunds(f"Not enough funds ({balance}) for a {written} transaction!", balance=balance)


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
