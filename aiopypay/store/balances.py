"""The account that a deposit or withdrawal is about, and the external account on its other side."""

from dataclasses import dataclass

from aiopypay.statements import Connection, fetch
from aiopypay.store.accounts import AccountRow

_SELECT = """
SELECT own.id, own.user_id, own.currency_id, own.amount, decimals, own.created_at, own.updated_at,
    (SELECT external.id FROM accounts AS external WHERE external.currency_id = own.currency_id AND external.id < 0)
FROM accounts AS own
JOIN currencies ON currencies.id = own.currency_id
"""

# A user's balance is their first account in the currency, unless they name another.
SELECT_FIRST = _SELECT + "WHERE own.user_id = %(user_id)s AND own.currency_id = %(currency_id)s ORDER BY own.id LIMIT 1"
SELECT_NAMED = _SELECT + "WHERE own.id = %(account_id)s AND own.user_id IS NOT NULL"


@dataclass(frozen=True, slots=True)
class BalanceAccount:
    """An account as its owner sees it, and the external account of its currency."""

    account: AccountRow
    external_account_id: int


async def balance_account(
    connection: Connection, user_id: int, currency_id: str, account_id: int | None = None
) -> BalanceAccount | None:
    """Returns this account, whosever it is; without an id the user's first one in the currency; None: there is none."""
    parameters = {"user_id": user_id, "currency_id": currency_id, "account_id": account_id}
    rows = await fetch(connection, SELECT_FIRST if account_id is None else SELECT_NAMED, parameters)
    return BalanceAccount(AccountRow(*rows[0][:7]), rows[0][7]) if rows else None
