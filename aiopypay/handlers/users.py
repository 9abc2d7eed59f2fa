"""POST /users."""

from dataclasses import dataclass

from aiohttp import web

from aiopypay.answers import Link, about, answers, described
from aiopypay.errors import TooManyRequests, UsernameTaken
from aiopypay.fields import parse_full_name, parse_password, parse_username
from aiopypay.forms import form_data, form_field
from aiopypay.handlers.registration import register
from aiopypay.representations import UserBody, json_response

routes = web.RouteTableDef()


@about("A new user.")
@dataclass(frozen=True, slots=True)
class UserForm:
    """A new user."""

    username: str = form_field("username", parse_username, "The name to log in with.")
    password: str = form_field("password", parse_password, "The password.")
    full_name: str = form_field("full_name", parse_full_name, "The name that people go by.", default="Unknown")


@routes.post("/users")
@described("Register", "Makes a new user with one account in each currency. No credentials are needed.")
@answers(
    201,
    UserBody,
    problems=[UsernameTaken, TooManyRequests],
    keyed=True,
    links=(Link("list_accounts", {"user_id": "$response.body#/id"}),),
)
@form_data(UserForm)
async def post_user(request: web.Request, form: UserForm) -> web.Response:
    """Registers a user with an account in each currency, in one transaction.

    Sent again with the same Idempotency-Key, name and password it is answered as before; otherwise a taken name is 409.
    """
    user_id = await register(request, form.username, form.password, form.full_name)
    return json_response(UserBody(user_id, form.username, form.full_name), status=201)
