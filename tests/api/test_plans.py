"""No statement of a request, or of the way back, reads a large table from end to end: PostgreSQL's own plans say so."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg2
import pytest
from psycopg2 import extensions

from aiopypay.embedded import EmbeddedPostgres
from aiopypay.stand_in import pages
from aiopypay.statements import Statement
from aiopypay.store import accounts, administration, change_log, history, order_statements
from tests.cluster import administration_dsn
from tests.databases import Databases

USERS = 2_000
LARGE = {"transfers", "orders"}
FILL = """
INSERT INTO users (username, full_name, password_hash, is_admin)
SELECT 'user' || number, 'User', '!', number %% 500 = 0 FROM generate_series(1, %(users)s) AS number;
INSERT INTO accounts (user_id, currency_id) SELECT users.id, 'USD' FROM users WHERE id > 1;
INSERT INTO orders (id, user_id, fingerprint, status, accepted_at, posted_at)
SELECT md5(number::text)::uuid, 2 + number %% %(users)s, '', 'posted', now(), now()
FROM generate_series(1, %(payments)s) AS number;
INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
SELECT md5(number::text)::uuid, kind, payer.id, CASE WHEN kind = 'payment' THEN payee.id ELSE 1 END, 1, 'Payment'
FROM generate_series(1, %(payments)s) AS number
CROSS JOIN (VALUES ('payment'), ('commission')) AS kinds (kind)
JOIN accounts AS payer ON payer.user_id = 2 + number %% %(users)s
JOIN accounts AS payee ON payee.user_id = 2 + (number * 7 + 1) %% %(users)s
WHERE payer.id <> payee.id;
ANALYZE
"""
PAGE = {"limit": 101, "after": 0, "looked_through": 20_000, "other_user_id": 5}
OWN = {"user_id": 1, "account_ids": [1, 2, 3], "ids": list(range(4, 260)), "user_ids": list(range(2, 52))}
ID = "00000000-0000-4000-8000-000000000001"
USERS_PAGE = {"is_active": None, "is_admin": None, "offset": 0}


@pytest.fixture(scope="module")
def cursor(
    databases: Databases, postgres: EmbeddedPostgres, request: pytest.FixtureRequest
) -> Iterator[extensions.cursor]:
    """In a database where the superuser was paid many commissions. Of one who may ANALYZE."""
    parameters = {"users": USERS, "payments": request.config.getoption("--payments")}
    with contextlib.ExitStack() as stack:
        name = extensions.parse_dsn(stack.enter_context(databases.fresh()))["dbname"]
        dsn = extensions.make_dsn(administration_dsn(postgres), dbname=name)
        connection = stack.enter_context(contextlib.closing(psycopg2.connect(dsn)))
        connection.autocommit = True
        opened = stack.enter_context(connection.cursor())
        opened.execute("SET aiopypay.node = 'yes'")
        for statement in FILL.split(";"):
            opened.execute(statement, parameters)
        yield opened


def side(name: str, sort: history.Sort) -> str:
    words = history._WORDS[sort]
    return history.SELECT_PAGE.format(sides=history._SIDE.format(side=name, **words), **words)


def between(sort: history.Sort) -> str:
    return history.SELECT_PAGE_BETWEEN.format(side="to", other="from", **history._WORDS[sort])


STATEMENTS: dict[str, tuple[str | Statement, Mapping[str, Any]]] = {
    "history": (side("from", "asc"), {}),
    "history of the commission account": (side("to", "asc"), {}),
    "newest history of the commission account": (side("to", "dsc"), {"after": 2**62}),
    "history between two": (between("asc"), {}),
    "newest history between two": (between("dsc"), {"after": 2**62}),
    "accounts of a user": (accounts.SELECT_ACCOUNTS_OF_USER, {}),
    "room for an account": (accounts.SELECT_ROOM.split(";")[1], {"currency_id": "USD", "accounts_max": 100}),
    "users to fill": (pages.SELECT_USERS, {}),
    "accounts to fill": (pages.SELECT_ACCOUNTS, {}),
    "orders to fill": (pages.SELECT_ORDERS_BEFORE, {"before": 2**62, "limit": 500}),
    "orders without transfers to fill": (pages.SELECT_ORDERS_WITHOUT_TRANSFERS, {"after": ID, "limit": 500}),
    "newest accounts of uncertain users": (pages.SELECT_NEWEST_ACCOUNTS, {"limit": 250}),
    "accounts of an uncertain user": (pages.SELECT_ACCOUNTS_OF_USER, {"limit": 250}),
    "orders that opened accounts": (pages.SELECT_OPENING_ORDERS, {}),
    "transfers of other nodes": (pages.SELECT_TRANSFERS_AFTER, {}),
    "orders by id": (
        order_statements.SELECT_ORDERS,
        {"ids": f"{{{ID}}}", "lowest": f"{{{ID}}}", "highest": f"{{{ID}}}"},
    ),
    "changes": (change_log.SELECT_CHANGES, {"lowest": "0", "seen": "1:1:", "overlap": False}),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_it_is_found_in_an_index(cursor: extensions.cursor, name: str) -> None:
    statement, parameters = STATEMENTS[name]
    assert {node["Relation Name"] for node in scans(cursor, statement, {**PAGE, **OWN, **parameters})}.isdisjoint(LARGE)


@pytest.mark.parametrize("column", administration._COLUMNS)
@pytest.mark.parametrize("direction", ["ASC", "DESC"])
def test_each_order_of_users_is_one_of_an_index(
    cursor: extensions.cursor, column: administration.SortBy, direction: str
) -> None:
    order = administration._COLUMNS[column].format(direction=direction)
    sql = administration.SELECT_PAGE.format(column=order, direction=direction, after="")
    assert scans(cursor, sql, USERS_PAGE | PAGE) == []


@pytest.mark.parametrize("filtered", [{"is_admin": True}, {"is_active": False}])
def test_the_few_are_found_among_the_many(cursor: extensions.cursor, filtered: dict[str, bool]) -> None:
    assert scans(cursor, administration.COUNT_USERS, USERS_PAGE | filtered) == []


def scans(cursor: extensions.cursor, statement: str | Statement, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the plan reads a table from end to end."""
    if isinstance(statement, Statement):
        cursor.execute("DEALLOCATE ALL; SET plan_cache_mode = force_generic_plan;" + statement.preparation)
        statement = statement.execution
    cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
    [(document,)] = cursor.fetchall()
    found = document if isinstance(document, list) else json.loads(document)
    return [node for node in nodes(found[0]["Plan"]) if node["Node Type"] == "Seq Scan"]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)
