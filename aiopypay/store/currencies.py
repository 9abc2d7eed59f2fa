"""Currencies as admins make and change them."""

from decimal import Decimal

from aiopypay.errors import TooManyCurrencies
from aiopypay.ledger import SUPERUSER_ID
from aiopypay.statements import Connection, Row, fetch
from aiopypay.store.accounts import CurrencyRow

INSERT_CURRENCY = """
INSERT INTO currencies (id, description, commission, decimals)
VALUES (%(id)s, %(description)s, %(commission)s, %(decimals)s)
ON CONFLICT (id) DO NOTHING
RETURNING id, description, commission, decimals
"""

# Currencies are added one after the other, by the superuser's row, and with it their accounts.
COUNT_CURRENCIES = """
SELECT FROM users WHERE id = %(superuser_id)s FOR NO KEY UPDATE;
SELECT count(*), count(*) FILTER (WHERE id = %(id)s) FROM currencies
"""

# Where the commission goes, and the world outside, whose account has the negative number of the currency.
INSERT_ACCOUNTS = """
INSERT INTO accounts (id, user_id, currency_id)
SELECT -ordinal, NULL::bigint, id FROM currencies WHERE id = %(id)s
UNION ALL
SELECT nextval(pg_get_serial_sequence('accounts', 'id')), %(superuser_id)s, %(id)s
"""

UPDATE_CURRENCY = """
UPDATE currencies
SET description = coalesce(%(description)s, description), commission = coalesce(%(commission)s, commission)
WHERE id = %(id)s
RETURNING id, description, commission, decimals
"""


async def add_currency(connection: Connection, currency: CurrencyRow, currencies_max: int) -> CurrencyRow | None:
    """Returns the new currency, which has its superuser and external accounts; None where the id is taken.

    Raises TooManyCurrencies where there are `currencies_max` already.
    """
    parameters = {
        "id": currency.id,
        "description": currency.description,
        "commission": currency.commission,
        "decimals": currency.decimals,
    }
    [(number, same)] = await fetch(connection, COUNT_CURRENCIES, {"id": currency.id, "superuser_id": SUPERUSER_ID})
    if number >= currencies_max and not same:
        raise TooManyCurrencies(f"There are {number} currencies, and a user may have {currencies_max} accounts.")
    added = _first(await fetch(connection, INSERT_CURRENCY, parameters))
    if added is not None:
        await fetch(connection, INSERT_ACCOUNTS, {"id": currency.id, "superuser_id": SUPERUSER_ID})
    return added


async def change_currency(
    connection: Connection, currency_id: str, description: str | None, commission: Decimal | None
) -> CurrencyRow | None:
    """Changes what is not None; returns the currency as it is then, None where there is none."""
    parameters = {"id": currency_id, "description": description, "commission": commission}
    return _first(await fetch(connection, UPDATE_CURRENCY, parameters))


def _first(rows: list[Row]) -> CurrencyRow | None:
    return CurrencyRow(*rows[0]) if rows else None
