"""Users as admins see and change them."""

from dataclasses import dataclass
from typing import Literal

from aiopypay.errors import InvalidRequest
from aiopypay.statements import Connection, Row, fetch
from aiopypay.store.users import User

SortBy = Literal["id", "username", "created_at", "updated_at", "is_admin", "is_active"]

_SELECT = "SELECT id, username, full_name, password_hash, is_admin, is_active, deactivations FROM users"
_FILTER = """
WHERE (%(is_active)s::boolean IS NULL OR is_active = %(is_active)s)
AND (%(is_admin)s::boolean IS NULL OR is_admin = %(is_admin)s)
"""

# Counting more would take longer than a statement may.
COUNTED_MAX = 1_000_000
# What is passed over is read all the same.
OFFSET_MAX = 100_000
COUNT_USERS = f"SELECT count(*) FROM (SELECT FROM users {_FILTER} LIMIT {COUNTED_MAX}) AS counted"  # noqa: S608

# By the id in the end, so that each order is one order and no page shows a user twice. Each has its index.
SELECT_PAGE = _SELECT + _FILTER + "{after} ORDER BY {column}, id {direction} LIMIT %(limit)s OFFSET %(offset)s"
_COLUMNS: dict[SortBy, str] = {
    "id": "id {direction}",
    "username": "lower(username) {direction}",
    "created_at": "created_at {direction}",
    "updated_at": "updated_at {direction} NULLS LAST",
    "is_admin": "is_admin {direction}",
    "is_active": "is_active {direction}",
}

SELECT_USER = _SELECT + " WHERE lower(username) = %(username)s"

UPDATE_USER = """
UPDATE users SET
    password_hash = coalesce(%(password_hash)s, password_hash),
    is_active = coalesce(%(is_active)s, is_active),
    is_admin = coalesce(%(is_admin)s, is_admin)
WHERE lower(username) = %(username)s
RETURNING id, username, full_name, password_hash, is_admin, is_active, deactivations
"""


@dataclass(frozen=True, slots=True)
class UsersPage:
    """Which users: filtered where a filter is not None, sorted, and which part of them.

    `after`: only users with a higher id, or a lower one where the sort is descending.
    """

    limit: int
    offset: int
    sort_by: SortBy
    is_descending: bool
    is_active: bool | None
    is_admin: bool | None
    after: int | None = None


@dataclass(frozen=True, slots=True)
class UserChange:
    """What changes; None leaves it as it is."""

    password_hash: str | None = None
    is_active: bool | None = None
    is_admin: bool | None = None


async def list_users(connection: Connection, page: UsersPage) -> tuple[list[User], int]:
    """Returns the page's users, and how many there are on all pages; of more than COUNTED_MAX that there are so many.

    Raises InvalidRequest for an offset above OFFSET_MAX, unless there are fewer users anyway.
    """
    parameters = {
        "is_active": page.is_active,
        "is_admin": page.is_admin,
        "limit": page.limit,
        "offset": page.offset,
        "after": page.after,
    }
    direction, beyond = ("DESC", "<") if page.is_descending else ("ASC", ">")
    sql = SELECT_PAGE.format(
        column=_COLUMNS[page.sort_by].format(direction=direction),
        direction=direction,
        after="" if page.after is None else f"AND id {beyond} %(after)s",
    )
    total: int = (await fetch(connection, COUNT_USERS, parameters))[0][0]
    if page.offset >= total and total < COUNTED_MAX:
        return [], total
    if page.offset > OFFSET_MAX:
        raise InvalidRequest(f"offset: must be 0 to {OFFSET_MAX}; sorted by id, `after` leads further", field="offset")
    return [User(*row) for row in await fetch(connection, sql, parameters)], total


async def user_named(connection: Connection, username: str) -> User | None:
    """Returns the user of this name in any case, None where there is none."""
    return _first(await fetch(connection, SELECT_USER, {"username": username.lower()}))


async def change_user(connection: Connection, username: str, change: UserChange) -> User | None:
    """Changes the user of this name and returns them as they are then, None where there is none."""
    parameters = {
        "username": username.lower(),
        "password_hash": change.password_hash,
        "is_active": change.is_active,
        "is_admin": change.is_admin,
    }
    return _first(await fetch(connection, UPDATE_USER, parameters))


def _first(rows: list[Row]) -> User | None:
    return User(*rows[0]) if rows else None
