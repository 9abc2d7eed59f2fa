"""Which passwords may be set, and the one form in which they are hashed."""

import pytest

from aiopypay.password_rules import forms_of, normalised, problem_of

COMPOSED, DECOMPOSED = "\u00e9clair du caf\u00e9", "e\u0301clair du cafe\u0301"


@pytest.mark.parametrize(
    ("typed", "form"),
    [
        ("correct horse", "correct horse"),
        (DECOMPOSED, COMPOSED),
        (COMPOSED, COMPOSED),
        ("\u212bngstr\u00f6m", "\u00c5ngstr\u00f6m"),
        ("no\u00a0break\u3000wide", "no break wide"),
        ("Gro\u00dfe Stra\u00dfe", "Gro\u00dfe Stra\u00dfe"),
        ("\uff50\uff41\uff53\uff53", "\uff50\uff41\uff53\uff53"),
    ],
    ids=ascii,
)
def test_what_keyboards_type_differently_is_one_password(typed: str, form: str) -> None:
    assert normalised(typed) == form
    assert normalised(form) == form
    assert forms_of(typed) == ((form,) if typed == form else (form, typed))


@pytest.mark.parametrize(
    "password",
    ["password", "PASSWORD", "12345678", "Iloveyou", "qwerty123", "password1", "administrator", "wonderland"],
)
def test_the_most_common_are_refused_in_any_case(password: str) -> None:
    assert "most common" in (problem_of(password, "vasya", 8) or "")


@pytest.mark.parametrize("username", ["vasya.pupkin", "Vasya.Pupkin", "VASYA.PUPKIN"])
def test_ones_own_name_is_refused_in_any_case(username: str) -> None:
    assert "name" in (problem_of("Vasya.pupkin", username, 8) or "")


@pytest.mark.parametrize(
    "password", ["correct horse", "assword1", "password\n1", "12345678\n123456789", "пароль: ключ"]
)
def test_others_are_not(password: str) -> None:
    assert problem_of(password, "vasya", 8) is None


def test_a_shorter_shortest_is_without_rules_but_its_own() -> None:
    assert problem_of("password", "password", 7) is None
    assert problem_of("1234567", "vasya", 8) == "must be at least 8 characters long"
    assert problem_of("123", "vasya", 4) == "must be at least 4 characters long"
