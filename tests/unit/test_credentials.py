"""Verified credentials are remembered; nothing else is."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import VerifyMismatchError

from aiopypay import credentials
from aiopypay.credentials import VerifiedCredentials
from aiopypay.passwords import Match, Passwords, Work


class CountingPasswords(Passwords):
    """Real argon2, counted."""

    def __init__(self) -> None:
        super().__init__()
        self.verifications = 0

    async def verify(self, encoded: str, password: str, work: Work = Work.LOGIN, source: str = "") -> Match:
        self.verifications += 1
        return await super().verify(encoded, password, work, source)


@pytest.fixture
def counting() -> Iterator[CountingPasswords]:
    with contextlib.closing(CountingPasswords()) as made:
        yield made


@pytest.fixture
def verified(counting: CountingPasswords) -> VerifiedCredentials:
    return VerifiedCredentials(counting)


async def test_hashes_are_argon2id_with_the_documented_parameters(counting: CountingPasswords) -> None:
    encoded = await counting.hash("correct horse")
    assert encoded.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert encoded != await counting.hash("correct horse"), "each hash has a salt of its own"


async def test_a_hash_of_other_parameters_is_outdated(counting: CountingPasswords) -> None:
    assert counting.is_outdated("$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ")
    assert not counting.is_outdated(await counting.hash("correct horse"))


async def test_nobodys_hash_takes_as_long_as_any_other_and_matches_nothing(counting: CountingPasswords) -> None:
    nobodys = counting.nobodys_hash
    assert extract_parameters(nobodys) == extract_parameters(await counting.hash("correct horse"))
    with pytest.raises(VerifyMismatchError):
        PasswordHasher().verify(nobodys, "")
    assert not await counting.verify(nobodys, "")
    with contextlib.closing(Passwords()) as others:
        assert nobodys != others.nobodys_hash


@pytest.mark.parametrize("encoded", ["", "!", "$argon2id$", "5f4dcc3b5aa765d61d8327deb882cf99"])
async def test_what_is_no_hash_matches_nothing(counting: CountingPasswords, encoded: str) -> None:
    assert not await counting.verify(encoded, "")
    assert not await counting.verify(encoded, encoded)


async def test_a_success_is_remembered(counting: CountingPasswords, verified: VerifiedCredentials) -> None:
    encoded = await counting.hash("correct horse")
    assert [await verified.verify("vasya", encoded, "correct horse") for _ in range(3)] == [Match.YES] * 3
    assert counting.verifications == 1


async def test_a_failure_never_is(counting: CountingPasswords, verified: VerifiedCredentials) -> None:
    encoded = await counting.hash("correct horse")
    assert [await verified.verify("vasya", encoded, "wrong horse") for _ in range(3)] == [Match.NO] * 3
    assert counting.verifications == 3


async def test_another_password_user_or_hash_misses(counting: CountingPasswords, verified: VerifiedCredentials) -> None:
    encoded = await counting.hash("correct horse")
    assert await verified.verify("vasya", encoded, "correct horse")
    assert not await verified.verify("vasya", encoded, "correct horsé")
    assert not await verified.verify("vasya", await counting.hash("new"), "correct horse")
    assert await verified.verify("frosya", encoded, "correct horse")
    assert counting.verifications == 4


async def test_parts_cannot_be_shifted_between_fields(
    counting: CountingPasswords, verified: VerifiedCredentials
) -> None:
    encoded = await counting.hash("c")
    assert await verified.verify("ab", encoded, "c")
    assert not await verified.verify("a", "b" + encoded, "c")


async def test_it_is_forgotten_after_five_minutes(
    counting: CountingPasswords, verified: VerifiedCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert credentials.REMEMBERED_SECONDS == 300
    encoded = await counting.hash("correct horse")
    monkeypatch.setattr(credentials, "REMEMBERED_SECONDS", 0.0)
    await verified.verify("vasya", encoded, "correct horse")
    await verified.verify("vasya", encoded, "correct horse")
    assert counting.verifications == 2


async def test_the_oldest_are_forgotten_when_there_are_too_many(
    counting: CountingPasswords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "REMEMBERED_MAX", 2)
    verified = VerifiedCredentials(counting)
    encoded = await counting.hash("correct horse")
    for username in ("a", "b", "c"):
        await verified.verify(username, encoded, "correct horse")
    assert counting.verifications == 3
    await verified.verify("c", encoded, "correct horse")
    await verified.verify("b", encoded, "correct horse")
    assert counting.verifications == 3
    await verified.verify("a", encoded, "correct horse")
    assert counting.verifications == 4


async def test_concurrent_verifications_of_the_same_share_one(
    counting: CountingPasswords, verified: VerifiedCredentials
) -> None:
    encoded = await counting.hash("correct horse")
    answers = await asyncio.gather(*(verified.verify("vasya", encoded, "correct horse") for _ in range(50)))
    assert answers == [Match.YES] * 50
    assert counting.verifications == 1


async def test_a_caller_that_leaves_does_not_take_the_answer_from_the_others(
    counting: CountingPasswords, verified: VerifiedCredentials
) -> None:
    encoded = await counting.hash("correct horse")
    leaver, stayer = (asyncio.create_task(verified.verify("vasya", encoded, "correct horse")) for _ in range(2))
    await asyncio.sleep(0)
    leaver.cancel()
    assert await stayer
    assert counting.verifications == 1


async def test_passwords_are_nowhere_in_what_is_remembered(
    counting: CountingPasswords, verified: VerifiedCredentials
) -> None:
    encoded = await counting.hash("correct horse")
    await verified.verify("vasya", encoded, "correct horse")
    assert b"correct horse" not in repr(vars(verified)).encode()
    assert "vasya" not in repr(vars(verified))


async def test_an_address_shares_nothing_with_another(
    counting: CountingPasswords, verified: VerifiedCredentials
) -> None:
    """Else a guesser whose guesses are no longer verified would still learn which is right."""
    encoded = await counting.hash("correct horse")
    await verified.verify("vasya", encoded, "correct horse", "192.0.2.1")
    verified.keep_header("Basic …", "vasya", encoded, "correct horse", "192.0.2.1")
    assert verified.known_header("Basic …", "192.0.2.1") is not None
    assert verified.known_header("Basic …", "192.0.2.2") is None
    await verified.verify("vasya", encoded, "correct horse", "192.0.2.2")
    assert counting.verifications == 2
