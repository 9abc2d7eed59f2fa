"""POST /users."""

from dataclasses import dataclass
from uuid import uuid4

from aiohttp import web

from aiopypay.answers import Link, answers
from aiopypay.errors import InvalidRequest, UsernameTaken
from aiopypay.fields import parse_full_name, parse_password, parse_username
from aiopypay.forms import form_data, form_field
from aiopypay.handlers import PASSWORDS, SETTINGS, STAND_IN
from aiopypay.representations import UserBody, json_response
from aiopypay.store.users import add_user, open_first_accounts

routes = web.RouteTableDef()


@dataclass(frozen=True, slots=True)
class UserForm:
    """A new user."""

    username: str = form_field("username", parse_username)
    password: str = form_field("password", parse_password)
    full_name: str = form_field("full_name", parse_full_name, default="Unknown")


@routes.post("/users")
@answers(201, UserBody, problems=[UsernameTaken], links=(Link("list_accounts", {"user_id": "$response.body#/id"}),))
@form_data(UserForm)
async def post_user(request: web.Request, form: UserForm) -> web.Response:
    """Registers a user with an account in each currency, in one transaction."""
    shortest = request.app[SETTINGS].password_min_length
    if len(form.password) < shortest:
        raise InvalidRequest(f"password: must be at least {shortest} characters long", field="password")
    password_hash = await request.app[PASSWORDS].hash(form.password)
    async with request.app[STAND_IN].changes.transaction(form.username) as connection:
        user_id = await add_user(connection, form.username, form.full_name, password_hash)
        if user_id is None:
            raise UsernameTaken("username: is taken", field="username")
        await open_first_accounts(connection, user_id, uuid4(), request.app[SETTINGS].signup_credit)
    return json_response(UserBody(user_id, form.username, form.full_name), status=201)
