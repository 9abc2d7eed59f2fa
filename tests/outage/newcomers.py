"""Users who register while others pay, who then pay, open accounts and change their passwords; one client for all."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import aiohttp

from .load import Load
from .payments import Answer, Person, accounts_path
from .requests import ask, client

NEWCOMERS_MAX = 6
CHANGE, READ, CASH = 0.1, 0.3, 0.4
PAUSE_SECONDS = (0.02, 0.15)


@dataclass(frozen=True)
class Registration:
    """Somebody registers, once."""

    username: str
    answer: Answer


@dataclass(frozen=True)
class Login:
    """A password was sent with a request that was answered so."""

    user_id: int
    password: str
    answer: Answer

    @property
    def is_accepted(self) -> bool:
        """Whether they were let in."""
        return self.answer.status is not None and self.answer.status < 500 and self.answer.status not in (401, 429)


@dataclass(frozen=True)
class PasswordChange:
    """Somebody wants another password; no two are ever the same."""

    user_id: int
    old: str
    new: str
    answer: Answer


class Newcomers:
    """The newcomers of one database."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._registered: list[Person] = []
        self._stopping = False
        self.people: list[Person] = []
        self.registrations: list[Registration] = []
        self.logins: list[Login] = []
        self.changes: list[PasswordChange] = []

    @contextlib.asynccontextmanager
    async def living(self, load: Load, generator: random.Random) -> AsyncIterator[None]:
        """Within, they do one thing after another."""
        self._stopping = False
        async with client() as session, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._live(session, load, generator))
            try:
                yield
            finally:
                self._stopping = True

    async def _live(self, session: aiohttp.ClientSession, load: Load, generator: random.Random) -> None:
        if len(self.registrations) < NEWCOMERS_MAX:
            await self._register(session, f"newcomer-{len(self.registrations)}")
        while not self._stopping:
            await self._meet(session, load)
            if self.people:
                await self._act(session, load, generator, generator.choice(self.people))
            await asyncio.sleep(generator.uniform(*PAUSE_SECONDS))

    async def _act(self, session: aiohttp.ClientSession, load: Load, generator: random.Random, person: Person) -> None:
        drawn, password = generator.random(), person.password
        if drawn < CHANGE:
            await self._change_password(session, person)
            return
        if drawn < READ:
            answer = (await load.read(session, person, load.draws.path(generator, person))).answer
        elif drawn < CASH:
            answer = await load.attempt(session, load.draws.cash(generator, person, by_admin=0))
        else:
            answer = await load.attempt(session, load.draws.payment(generator, payer=person, foreign=0))
        self.logins.append(Login(person.id, password, answer))
        if answer.status == 401 and person.password == password:
            person.try_other_password()

    async def _register(self, session: aiohttp.ClientSession, username: str) -> None:
        password = f"password of {username}"
        form = {"username": username, "password": password}
        answer = (await ask(session, "POST", url=f"{self._base_url}/users", data=form))[0]
        self.registrations.append(Registration(username, answer))
        if answer.status == 201:
            self._registered.append(Person(answer.body["id"], username, password, {}))

    async def _meet(self, session: aiohttp.ClientSession, load: Load) -> None:
        """Asks for the accounts of those who have registered, as soon as they can be told."""
        for person in list(self._registered):
            read = await load.read(session, person, accounts_path(person))
            if read.balances:
                rows = read.answer.body
                person.accounts.update({row["id"]: row["currency_id"] for row in rows})
                self._registered.remove(person)
                self.people.append(person)

    async def _change_password(self, session: aiohttp.ClientSession, person: Person) -> None:
        old, new = person.password, f"password {len(self.changes)} of {person.username}"
        body = {"current_password": old, "password": new}
        url = f"{self._base_url}/api/users/me"
        answer = (await ask(session, "PATCH", url=url, json=body, headers=person.headers))[0]
        self.logins.append(Login(person.id, old, answer))
        self.changes.append(PasswordChange(person.id, old, new, answer))
        if answer.status == 200:
            person.password, person.other_password = new, old
        elif answer.status == 401:
            person.try_other_password()
        elif not answer.is_known:
            person.other_password = new


def password_violations(logins: Sequence[Login], changes: Sequence[PasswordChange]) -> Iterator[str]:
    """Who is let in with a password that was replaced before, or kept out with the one that holds."""
    for login in logins:
        theirs = [change for change in changes if change.user_id == login.user_id]
        setting = next((place for place, change in enumerate(theirs) if change.new == login.password), -1)
        later = theirs[setting + 1 :]
        answer = login.answer
        if login.is_accepted and any(_is_certain(change) and change.answer.ended < answer.started for change in later):
            yield f"identity: user {login.user_id} was let in with the replaced {login.password!r}"
        holds = setting < 0 or (_is_certain(theirs[setting]) and theirs[setting].answer.ended < answer.started)
        if answer.status == 401 and holds and not any(_may_count(change, answer) for change in later):
            yield f"identity: user {login.user_id} was kept out with {login.password!r}: {answer.body}"


def _is_certain(change: PasswordChange) -> bool:
    return change.answer.status == 200


def _may_count(change: PasswordChange, answer: Answer) -> bool:
    refused = change.answer.is_known and not _is_certain(change)
    return change.answer.started < answer.ended and not refused
