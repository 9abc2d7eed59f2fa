"""The entrance of client-transactions-api: what this service is, registration, bearer tokens."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from typing import Annotated, ClassVar

import msgspec
from aiohttp import web

from aiopypay import __version__
from aiopypay.answers import about, answers, described
from aiopypay.auth import AUTHENTICATOR, Endpoint
from aiopypay.client_address import client_address
from aiopypay.errors import (
    NotAuthenticated,
    Problem,
    TooManyRequests,
    UnsupportedGrantType,
    UserDeactivated,
    UsernameTaken,
)
from aiopypay.fields import parse_grant_type, parse_ignored, parse_password, parse_text, parse_username
from aiopypay.forms import form_data, form_field
from aiopypay.handlers import SETTINGS, TOKENS
from aiopypay.handlers.registration import register
from aiopypay.representations import Time, json_response

routes = web.RouteTableDef()

FULL_NAME = "Unknown"
PASSWORD_GRANT = "password"


@about(
    "What answers here.",
    status="`OK`.",
    response="What this service is.",
    version="The service's version.",
    client="The address that the request came from, as the service sees it.",
    time="The service's time.",
)
class IndexBody(msgspec.Struct):
    """What answers here; `client` is the caller's address as the service sees it."""

    status: str
    response: str
    version: str
    client: str
    time: Time


@about(
    "A new user.",
    username="The name to log in with.",
)
class RegisteredBody(msgspec.Struct):
    """A new user."""

    username: str


@about(
    "A bearer token.",
    access_token="What to send as `Authorization: Bearer …`.",  # noqa: S106 - a text about it
    token_type="Always `bearer`.",  # noqa: S106 - a text about it
    expires_in="For how many seconds it is good.",
)
class TokenBody(msgspec.Struct):
    """A bearer token and for how many seconds it is good."""

    access_token: str
    token_type: Annotated[str, msgspec.Meta(extra_json_schema={"const": "bearer"})]
    expires_in: int


@about("A new user.")
@dataclass(frozen=True, slots=True)
class RegistrationForm:
    """A new user."""

    username: str = form_field("username", parse_username, "The name to log in with.")
    password: str = form_field("password", parse_password, "The password.")


@about("The password form of OAuth 2 (RFC 6749, 4.3.2). Only name and password are looked at.")
@dataclass(frozen=True, slots=True)
class TokenForm:
    """OAuth2's password form (RFC 6749, 4.3.2); of the optional fields nothing is needed, others are not looked at."""

    IGNORES_OTHERS: ClassVar[bool] = True

    username: str = form_field("username", parse_text, "The name to log in with.")
    password: str = form_field("password", parse_text, "The password.")
    grant_type: str | None = form_field("grant_type", parse_grant_type, "`password`, where it is sent.", default=None)
    scope: str | None = form_field("scope", parse_ignored, "Not looked at.", default=None)
    client_id: str | None = form_field("client_id", parse_ignored, "Not looked at.", default=None)
    client_secret: str | None = form_field("client_secret", parse_ignored, "Not looked at.", default=None)


def oauth_errors(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Endpoint:
    """Adds to problems the member `error` that clients of OAuth look for (RFC 6749, 5.2)."""

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Problem as problem:
            problem.error = _oauth_error(problem)
            raise

    return answer


def _oauth_error(problem: Problem) -> str:
    if isinstance(problem, NotAuthenticated | UserDeactivated):
        return "invalid_grant"
    if isinstance(problem, UnsupportedGrantType):
        return "unsupported_grant_type"
    if problem.status in (429, 503):
        # Of RFC 6749's 4.1.2.1: for the token endpoint it has none.
        return "temporarily_unavailable"
    return "server_error" if problem.status >= 500 else "invalid_request"


@routes.get("/api")
@routes.get("/api/")
@described(
    "See what answers here",
    "That the service is there, its version, and the address that your request came from.",
)
@answers(200, IndexBody, database=False)
async def get_index(request: web.Request) -> web.Response:
    """That the service answers, without a look at the database."""
    client = client_address(request, request.app[SETTINGS].trusted_proxies)
    return json_response(IndexBody("OK", "A payments backend", __version__, client, datetime.now(UTC)))


@routes.post("/api/auth/register")
@described("Register with a name and a password", "As `POST /users`, without a full name.")
@answers(201, RegisteredBody, problems=[UsernameTaken, TooManyRequests], keyed=True)
@form_data(RegistrationForm)
async def post_registration(request: web.Request, form: RegistrationForm) -> web.Response:
    """Registers a user, as POST /users does."""
    await register(request, form.username, form.password, FULL_NAME)
    return json_response(RegisteredBody(form.username), status=201)


@routes.post("/api/auth/token")
@described(
    "Get a token",
    "A bearer token for a name and a password (the password grant of OAuth 2). Send it as `Authorization: Bearer "
    "…` until it ends. Also while the database is away, for users whom this node knows.",
)
@answers(
    200,
    TokenBody,
    offline=True,
    problems=[NotAuthenticated, UnsupportedGrantType, UserDeactivated, TooManyRequests],
)
@oauth_errors
@form_data(TokenForm)
async def post_token(request: web.Request, form: TokenForm) -> web.Response:
    """A token for a name and a password; also without the database, for users known to this node."""
    if form.grant_type not in (None, "", PASSWORD_GRANT):
        raise UnsupportedGrantType(f"grant_type: must be {PASSWORD_GRANT}, or left out", field="grant_type")
    user = await request.app[AUTHENTICATOR].log_in(request, form.username, form.password)
    tokens = request.app[TOKENS]
    body = TokenBody(tokens.issue(user), "bearer", tokens.seconds)
    return json_response(body, headers={"Pragma": "no-cache"})
