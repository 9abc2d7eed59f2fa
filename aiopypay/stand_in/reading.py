"""What users may read while the database is away: the money as they were told it is."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from aiopypay import money
from aiopypay.errors import NotKnownHere
from aiopypay.stand_in.deputy_work import FILLED
from aiopypay.stand_in.records import Entry, KnownAccount
from aiopypay.stand_in.store import Store
from aiopypay.store.accounts import AccountRow, CurrencyRow
from aiopypay.store.balances import BalanceAccount
from aiopypay.store.orders import OrderRecord
from aiopypay.store.transfers import TransferRow


def currencies(store: Store) -> list[CurrencyRow]:
    """Returns all currencies. Raises NotKnownHere."""
    known = store.currencies()
    if not known or store.has_changed("currencies"):
        raise NotKnownHere("The database is away, and this node does not know the currencies.")
    return [CurrencyRow(row.id, row.description, row.commission, row.decimals) for row in known]


# Of accounts: of a user who has very many for the first in a currency, and of those that others have changed.
LOOKED_THROUGH_MAX = 1000


def accounts_of_user(store: Store, user_id: int, *, after: int, limit: int) -> list[AccountRow]:
    """Returns the user's accounts behind this id, with their expected balances, by id. Raises NotKnownHere."""
    user = store.user(user_id)
    if user is None or store.is_uncertain(user.username):
        # Registered, or with a new account, as the database was lost.
        raise NotKnownHere("The database is away, and this node may not know all of your accounts.")
    decimals = _decimals(store)
    return [_row(known, decimals) for known in _of_user(store, user_id, after, limit)]


def account(store: Store, account_id: int) -> AccountRow:
    """Returns the account with its expected balance. Raises NotKnownHere: what is unknown here may yet exist."""
    known = store.account(account_id)
    if known is None or known.user_id is None or store.changed_accounts([account_id]):
        raise NotKnownHere("The database is away, and this node does not know this account as it is.")
    return _row(known, _decimals(store))


def accounts_by_id(store: Store, account_ids: Sequence[int]) -> dict[int, AccountRow | Exception | None]:
    """Returns each of the accounts as `account` does, or what that raises."""
    found: dict[int, AccountRow | Exception | None] = {}
    for account_id in account_ids:
        try:
            found[account_id] = account(store, account_id)
        except NotKnownHere as unknown:
            found[account_id] = unknown
    return found


def balance_account(
    store: Store, user_id: int, currency_id: str, account_id: int | None = None
) -> BalanceAccount | None:
    """Returns this account, or the user's first one in the currency (None: they have none). Raises NotKnownHere."""
    if account_id is not None:
        return _with_external(store, account(store, account_id))
    # Of the user's other accounts nothing is asked, so that what is not known of them is no hindrance.
    known = _of_user(store, user_id, 0, LOOKED_THROUGH_MAX)
    first = next((account for account in known if account.currency_id == currency_id), None)
    if first is not None:
        return _with_external(store, _row(first, _decimals(store)))
    user = store.user(user_id)
    if user is None or store.is_uncertain(user.username) or len(known) == LOOKED_THROUGH_MAX:
        raise NotKnownHere("The database is away, and this node may not know all accounts of this user.")
    return None


def order(store: Store, order_id: UUID) -> OrderRecord:
    """Returns the order's present state. Raises NotKnownHere: what is unknown here may yet exist."""
    record = store.order(order_id)
    if record is not None:
        return record
    entry = store.entry(order_id)
    if entry is None:
        raise NotKnownHere("The database is away, and this node does not know this order.")
    return record_of(entry.entry, entry.state, entry.reason)


def record_of(entry: Entry, state: str = "pending", reason: str | None = None) -> OrderRecord:
    """Returns an order that is in the journal in the form of one that is booked; its transfers have no ids yet."""
    placed = entry.order
    accepted_at = placed.accepted_at
    assert accepted_at is not None  # noqa: S101 - every entry of the journal has it
    transfers = tuple(
        TransferRow(
            id=None,
            order_id=placed.id,
            kind=transfer.kind,
            timestamp=None,
            from_account_id=transfer.from_account_id,
            to_account_id=transfer.to_account_id,
            amount=transfer.amount,
            comment=transfer.comment,
            decimals=entry.decimals,
        )
        for transfer in entry.transfers
        if state != "refused"
    )
    return OrderRecord(
        id=placed.id,
        user_id=placed.user_id,
        fingerprint=placed.fingerprint,
        status=state,
        accepted_at=accepted_at,
        posted_at=None,
        reason=reason,
        balance=entry.balance,
        transfers=transfers,
    )


def _with_external(store: Store, row: AccountRow) -> BalanceAccount:
    external = {currency.id: currency.external_account_id for currency in store.currencies()}
    return BalanceAccount(row, external[row.currency_id])


def _of_user(store: Store, user_id: int, after: int, limit: int) -> list[KnownAccount]:
    if store.setting(FILLED) != "yes" or _may_have_changed(store, user_id):
        raise NotKnownHere("The database is away, and this node may not know all of your accounts.")
    return store.accounts_of_user(user_id, after, limit)


def _may_have_changed(store: Store, user_id: int) -> bool:
    """Tells whether others have changed one of the user's accounts, or one of which it is not known whose it is."""
    if not store.has_changed("accounts"):
        return False
    ids = [row_id for table, row_id in store.changed(LOOKED_THROUGH_MAX) if table == "accounts"]
    if len(ids) == LOOKED_THROUGH_MAX:
        return True
    known = store.accounts(row_id for row_id in ids if row_id is not None)
    return len(known) < len(ids) or any(account.user_id == user_id for account in known.values())


def _decimals(store: Store) -> dict[str, int]:
    return {currency.id: currency.decimals for currency in store.currencies()}


def _row(known: KnownAccount, decimals_by_currency: Mapping[str, int]) -> AccountRow:
    """Returns the account as it is told. Raises NotKnownHere for one in a currency that is not known here.

    That is one that was made just before the database was lost: the accounts in it may be known already.
    """
    decimals = decimals_by_currency.get(known.currency_id)
    if decimals is None:
        raise NotKnownHere("The database is away, and this node does not know the currency of an account.")
    with money.exact():
        amount = known.amount + known.pending
    return AccountRow(
        known.id, known.user_id or 0, known.currency_id, amount, decimals, known.created_at, known.updated_at
    )
