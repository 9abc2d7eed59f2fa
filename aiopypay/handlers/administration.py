"""The administration of users, for admins."""

from dataclasses import dataclass, replace
from typing import get_args

import msgspec
from aiohttp import web

from aiopypay.answers import NEXT_PAGE, about, answers, described
from aiopypay.auth import authenticated
from aiopypay.errors import NotFound, OwnAccess
from aiopypay.fields import parse_flag, parse_id, parse_limit, parse_offset, parse_password, parse_username
from aiopypay.forms import form_data, form_field, query_string
from aiopypay.handlers import DATABASE, STAND_IN
from aiopypay.handlers.paging import next_page
from aiopypay.handlers.registration import hashed
from aiopypay.parsers import takes
from aiopypay.passwords import Work
from aiopypay.representations import PersonBody, json_response, person_body
from aiopypay.store.administration import SortBy, UserChange, UsersPage, change_user, list_users, user_named
from aiopypay.store.users import User, lock_caller

routes = web.RouteTableDef()

# `me` is no user's name, and a route of its own.
_ONE_USER = "/api/users/{username:(?!me$)[^/]+}"


@about(
    "A page of users.",
    items="The users of this page.",
    total="How many users there are on all pages.",
    limit="As it was asked for.",
    offset="As it was asked for.",
)
class UsersBody(msgspec.Struct):
    """A page of users; `total` counts those on all pages, up to 1 000 000."""

    items: list[PersonBody]
    total: int
    limit: int
    offset: int


@takes({"type": "string", "enum": get_args(SortBy)})
def parse_sort_by(text: str) -> SortBy:
    """One of the columns that users may be sorted by."""
    for column in get_args(SortBy):
        if text == column:
            return column  # type: ignore[no-any-return]
    raise ValueError(f"must be one of {', '.join(get_args(SortBy))}")


@dataclass(frozen=True, slots=True)
class UsersQuery:
    """Which users, and how they are sorted. `after`: only those with a higher id, with `desc` a lower one."""

    limit: int = form_field("limit", parse_limit, "How many users a page has.", default=100)
    offset: int = form_field("offset", parse_offset, "How many users to leave out before the first.", default=0)
    sort_by: SortBy = form_field("sort_by", parse_sort_by, "What they are sorted by.", default="id")
    desc: bool = form_field("desc", parse_flag, "Whether the greatest comes first.", default=False)
    is_active: bool | None = form_field(
        "is_active",
        parse_flag,
        "Only those who can log in, or only those who cannot.",
        default=None,
    )
    is_admin: bool | None = form_field("is_admin", parse_flag, "Only admins, or only others.", default=None)
    after: int | None = form_field(
        "after",
        parse_id,
        "Only those with a higher id, with `desc` a lower one: the id of the last user seen.",
        default=None,
    )


@about("What is to change of a user. What is left out stays.")
@dataclass(frozen=True, slots=True)
class UserChangeForm:
    """What changes of a user; what is left out stays."""

    password: str | None = form_field("password", parse_password, "A new password.", default=None)
    is_active: bool | None = form_field("is_active", parse_flag, "Whether they can log in.", default=None)
    is_admin: bool | None = form_field(
        "is_admin",
        parse_flag,
        "Whether they may administer users and currencies.",
        default=None,
    )


@routes.get("/api/users")
@described("List users", "For admins. One page of all users; `total` counts all that match, up to 1 000 000.")
@answers(200, UsersBody, headers=(NEXT_PAGE,))
@authenticated(admin=True)
@query_string(UsersQuery)
async def get_users(request: web.Request, user: User, query: UsersQuery) -> web.Response:  # noqa: ARG001
    """A page of all users. Sorted by id, the `Link` header leads to the next, however many there are."""
    page = UsersPage(query.limit, query.offset, query.sort_by, query.desc, query.is_active, query.is_admin, query.after)
    async with request.app[DATABASE].transaction(by_statement=True) as connection:
        users, total = await list_users(connection, page)
    headers = None
    if query.sort_by == "id" and len(users) == query.limit:
        headers = next_page(request, replace(query, offset=0, after=users[-1].id))
    body = UsersBody([person_body(user) for user in users], total, query.limit, query.offset)
    return json_response(body, headers=headers)


@routes.get(_ONE_USER)
@described("Read a user", "For admins.")
@answers(200, PersonBody)
@authenticated(admin=True)
async def get_user(request: web.Request, user: User) -> web.Response:  # noqa: ARG001
    """One user."""
    username = _username(request)
    async with request.app[DATABASE].transaction() as connection:
        found = await user_named(connection, username)
    return json_response(person_body(_known(found)))


@routes.patch(_ONE_USER)
@described(
    "Change a user",
    "For admins. What is left out stays. With a new password, or by deactivation, the user's tokens end. Nobody "
    "can take their own access away.",
)
@answers(200, PersonBody, problems=[OwnAccess])
@authenticated(admin=True)
@form_data(UserChangeForm)
async def patch_user(request: web.Request, user: User, form: UserChangeForm) -> web.Response:
    """Changes a user. With the password, or with deactivation, their tokens end."""
    username = _username(request)
    if _is_same(username, user) and False in (form.is_active, form.is_admin):
        raise OwnAccess("You cannot deactivate or demote yourself")
    password_hash = None
    if form.password is not None:
        password_hash = await hashed(request, username, form.password, Work.CHANGE, user.username)
    changed = await _change(request, user, username, UserChange(password_hash, form.is_active, form.is_admin))
    return json_response(person_body(changed))


@routes.delete(_ONE_USER)
@described(
    "Deactivate a user",
    "For admins. The user can no longer log in. Their accounts and history stay, and payments to them still arrive.",
)
@answers(204, problems=[OwnAccess])
@authenticated(admin=True)
async def delete_user(request: web.Request, user: User) -> web.Response:
    """Deactivates a user. What they have done and own stays."""
    username = _username(request)
    if _is_same(username, user):
        raise OwnAccess("You cannot deactivate yourself")
    await _change(request, user, username, UserChange(is_active=False))
    return web.Response(status=204)


async def _change(request: web.Request, caller: User, username: str, change: UserChange) -> User:
    async with request.app[STAND_IN].changes.transaction(username) as connection:
        await lock_caller(connection, caller)
        return _known(await change_user(connection, username, change))


def _username(request: web.Request) -> str:
    try:
        return parse_username(request.match_info["username"])
    except ValueError:
        raise _unknown() from None


def _is_same(username: str, user: User) -> bool:
    return username.lower() == user.username.lower()


def _known(user: User | None) -> User:
    if user is None:
        raise _unknown()
    return user


def _unknown() -> NotFound:
    return NotFound("There is no such user")
