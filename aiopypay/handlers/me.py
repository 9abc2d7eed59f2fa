"""The caller themselves: who they are, and their own password."""

from dataclasses import dataclass

from aiohttp import web
from msgspec.structs import replace

from aiopypay.answers import about, answers, described
from aiopypay.auth import AUTHENTICATOR, authenticated
from aiopypay.errors import WrongPassword
from aiopypay.fields import parse_password, parse_text
from aiopypay.forms import form_data, form_field
from aiopypay.handlers import STAND_IN
from aiopypay.handlers.registration import hashed
from aiopypay.passwords import Work
from aiopypay.representations import PersonBody, json_response, person_body
from aiopypay.store.users import User, lock_caller, replace_password_hash

routes = web.RouteTableDef()


@about("A new password, and the one that it replaces.")
@dataclass(frozen=True, slots=True)
class OwnPasswordForm:
    """A new password, and the one that it replaces."""

    current_password: str = form_field("current_password", parse_text, "Your password until now.")
    password: str = form_field("password", parse_password, "Your new password.")


@routes.get("/api/users/me")
@described("Read who you are", "The user whose credentials the request bears.")
@answers(200, PersonBody, offline=True)
@authenticated()
async def get_me(request: web.Request, user: User) -> web.Response:  # noqa: ARG001 - all of it is known by now
    """The caller."""
    return json_response(person_body(user))


@routes.patch("/api/users/me")
@described("Change your password", "The old password and every token end at once.")
@answers(200, PersonBody, problems=[WrongPassword])
@authenticated()
@form_data(OwnPasswordForm)
async def patch_me(request: web.Request, user: User, form: OwnPasswordForm) -> web.Response:
    """Changes the caller's password. The old one, and every token, end with it."""
    if not await request.app[AUTHENTICATOR].matches(request, user, form.current_password):
        raise WrongPassword("current_password: is not your password", field="current_password")
    password_hash = await hashed(request, user.username, form.password, Work.CHANGE, user.username)
    async with request.app[STAND_IN].changes.transaction(user.username) as connection:
        await lock_caller(connection, user)
        await replace_password_hash(connection, user.id, user.password_hash, password_hash)
    return json_response(person_body(replace(user, password_hash=password_hash)))
