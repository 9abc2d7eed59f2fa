"""What a handler's signature does not show, said once beside it; the OpenAPI document is made of it.

A handler declares its answers with @answers. @authenticated, @form_data and @query_string add what they know. What
users read of a route is in @described, of a body or a form in @about: docstrings are for those who change the code.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from aiopypay.errors import Problem

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
CSV = "text/csv"

_ATTRIBUTE = "__traits__"

Function = TypeVar("Function", bound=Callable[..., Any])
AnyType = TypeVar("AnyType", bound=type)


@dataclass(frozen=True, slots=True)
class Header:
    """A header of an answer. `required` is a promise that it is always there."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    required: bool = True


@dataclass(frozen=True, slots=True)
class Link:
    """Where an answer leads to: an operation (its handler's name) and its parameters, as runtime expressions."""

    operation: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """One success: a status, and the type of the body in one media type. `body` None is an answer without a body."""

    status: int
    body: Any = None
    media_type: str = JSON
    headers: tuple[Header, ...] = ()
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Traits:
    """All that is known of a handler besides its path and its name. `documented` False is for what is no operation."""

    summary: str = ""
    description: str = ""
    answers: tuple[Answer, ...] = ()
    problems: frozenset[type[Problem]] = frozenset()
    body: type | None = None
    body_types: tuple[str, ...] = (JSON, FORM)
    # 0: the body is not read.
    body_bytes_max: int = 0
    query: type | None = None
    authenticated: bool = False
    idempotent: bool = False
    keyed: bool = False
    offline: bool = False
    database: bool = True
    documented: bool = True


@dataclass(frozen=True, slots=True)
class About:
    """What users read of a type, and of its fields."""

    text: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


LOCATION = Header("Location", "The order.", {"type": "string", "format": "uri-reference"})
NEXT_PAGE = Header("Link", 'The URL of the next page (`rel="next"`), where there is one.', required=False)


def answers(
    status: int,
    body: Any = None,
    *,
    media_type: str = JSON,
    headers: tuple[Header, ...] = (),
    links: tuple[Link, ...] = (),
    problems: Iterable[type[Problem]] = (),
    **traits: bool,
) -> Callable[[Function], Function]:
    """Declares one answer of a handler, and problems that are its own. It can stand several times.

    Traits: `idempotent=True` where the Idempotency-Key makes an order, `keyed=True` where it is heeded otherwise,
    `offline=True` where it works without the database, `database=False` where it never asks it,
    `documented=False` where it is no operation of the API.
    """
    answer = Answer(status, body, media_type, headers, links)

    def decorate(handler: Function) -> Function:
        return add_traits(handler, answers=(answer, *traits_of(handler).answers), problems=problems, **traits)

    return decorate


def add_traits(handler: Function, *, problems: Iterable[type[Problem]] = (), **traits: Any) -> Function:
    """Returns the handler, with more known of it. functools.wraps hands on what was known of the handler inside."""
    known = traits_of(handler)
    setattr(handler, _ATTRIBUTE, replace(known, problems=known.problems | frozenset(problems), **traits))
    return handler


def traits_of(handler: Callable[..., Any]) -> Traits:
    """Returns what is known of a handler."""
    traits: Traits = getattr(handler, _ATTRIBUTE, Traits())
    return traits


def described(summary: str, description: str) -> Callable[[Function], Function]:
    """Declares what users read of a route: a few words, and whole sentences (Markdown)."""

    def decorate(handler: Function) -> Function:
        return add_traits(handler, summary=summary, description=description)

    return decorate


_ABOUT: dict[str, About] = {}


def about(text: str, **fields: str) -> Callable[[AnyType], AnyType]:
    """Declares what users read of a form or a body, and of the fields of a body."""

    def declare(type_: AnyType) -> AnyType:
        _ABOUT[type_.__name__] = About(text, fields)
        return type_

    return declare


def about_of(name: str) -> About:
    """Returns what was declared of the type of this name, which is its name in the OpenAPI document."""
    return _ABOUT.get(name, About())
