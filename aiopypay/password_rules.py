"""Which passwords may be set, and the one form in which a password is hashed, however a keyboard types it."""

import unicodedata
from importlib.resources import files

from aiopypay.errors import InvalidRequest

# Below this the operator has decided against rules for passwords.
LENGTH_WITH_RULES = 8

# One text and no set: a look takes some 20 µs, next to 30 ms of argon2, and the memory is the file's size.
_COMMON = "\n" + (files("aiopypay") / "common_passwords" / "passwords.txt").read_text()


def normalised(password: str) -> str:
    """Returns the form that is hashed (RFC 8265, OpaqueString): spaces of all kinds are one, characters composed."""
    if password.isascii():
        return password
    spaced = "".join(" " if unicodedata.category(character) == "Zs" else character for character in password)
    return unicodedata.normalize("NFC", spaced)


def forms_of(password: str) -> tuple[str, ...]:
    """Returns what may have been hashed: the normalised form, and what was typed where that is another one.

    Before there was a form, passwords were hashed as typed.
    """
    form = normalised(password)
    return (form,) if form == password else (form, password)


def check_new_password(password: str, username: str, shortest: int) -> None:
    """Refuses what is shorter than `shortest` characters; and, unless that is below 8, what is guessed first.

    That is the 10 000 most common passwords and the user's own name, in any case. Raises InvalidRequest.
    """
    problem = problem_of(normalised(password), username, shortest)
    if problem is not None:
        raise InvalidRequest(f"password: {problem}", field="password")


def problem_of(password: str, username: str, shortest: int) -> str | None:
    """Returns what is wrong with a new password, which is normalised; None where nothing is."""
    if len(password) < shortest:
        return f"must be at least {shortest} characters long"
    if shortest < LENGTH_WITH_RULES:
        return None
    folded = password.casefold()
    if folded == username.casefold():
        return "must not be the user's name. Choose another one, such as several words"
    if "\n" not in folded and f"\n{folded}\n" in _COMMON:
        return "is one of the most common passwords, which are guessed first. Choose another one, such as several words"
    return None
