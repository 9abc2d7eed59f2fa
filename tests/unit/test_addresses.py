"""A database URL becomes one connection string for each server that it may mean."""

import socket
from typing import Any

import pytest
from psycopg2.extensions import parse_dsn

from aiopypay.addresses import at_server, blocking_dsns, single_address_dsns


async def both(database_url: str) -> list[dict[str, str]]:
    """The connection strings, taken apart, of those who wait and of those who block: they are the same."""
    waited = await single_address_dsns(database_url)
    assert waited == blocking_dsns(database_url, {})
    return [parse_dsn(dsn) for dsn in waited]


def addresses(parts: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    """What leads to each."""
    return [(part["host"], part["hostaddr"], part["port"]) for part in parts]


async def test_each_host_has_its_port() -> None:
    assert addresses(await both("host=127.0.0.1,127.0.0.2 port=5433,5434")) == [
        ("127.0.0.1", "127.0.0.1", "5433"),
        ("127.0.0.2", "127.0.0.2", "5434"),
    ]


async def test_a_port_may_be_common_or_left_out() -> None:
    assert [part["port"] for part in await both("host=127.0.0.1,127.0.0.2 port=5433")] == ["5433", "5433"]
    assert [part["port"] for part in await both("postgresql://127.0.0.1,127.0.0.2:5433/aiopypay")] == ["5432", "5433"]


async def test_an_address_needs_no_name_and_keeps_the_one_it_has() -> None:
    given = await both("host=one.invalid,two.invalid hostaddr=127.0.0.1,127.0.0.2")
    assert addresses(given) == [("one.invalid", "127.0.0.1", "5432"), ("two.invalid", "127.0.0.2", "5432")]
    assert addresses(await both("hostaddr=127.0.0.1")) == [("127.0.0.1", "127.0.0.1", "5432")]


async def test_one_of_several_must_be_writable() -> None:
    several = await both("host=127.0.0.1,127.0.0.2")
    assert [part["target_session_attrs"] for part in several] == ["read-write", "read-write"]


async def test_what_one_alone_says_of_itself_is_heard() -> None:
    """It is the database's own refusal that tells that it is read-only."""
    assert "target_session_attrs" not in (await both("host=127.0.0.1"))[0]


async def test_the_urls_own_choice_is_kept() -> None:
    chosen = await both("host=127.0.0.1,127.0.0.2 target_session_attrs=any")
    assert [part["target_session_attrs"] for part in chosen] == ["any", "any"]


def test_a_name_with_several_addresses_means_several_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        return [(0, 0, 0, "", (address, 5432)) for address in ("::1", "127.0.0.1", "127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    found = [parse_dsn(dsn) for dsn in blocking_dsns("host=members.invalid", {})]
    assert [part["hostaddr"] for part in found] == ["127.0.0.1", "127.0.0.2", "::1"]
    assert {part["target_session_attrs"] for part in found} == {"read-write"}


async def test_a_name_without_an_address_is_passed_over_unless_it_is_the_only_one() -> None:
    assert addresses(await both("host=nowhere.invalid,127.0.0.1")) == [("127.0.0.1", "127.0.0.1", "5432")]
    with pytest.raises((socket.gaierror, TimeoutError)):
        await single_address_dsns("host=nowhere.invalid")
    with pytest.raises((socket.gaierror, TimeoutError)):
        blocking_dsns("host=nowhere.invalid", {})


async def test_a_directory_is_a_socket() -> None:
    (part,) = await both("host=/run/postgresql port=5433")
    assert (part["host"], part["port"], "hostaddr" in part) == ("/run/postgresql", "5433", False)


def test_settings_of_those_who_block_stand_after_the_others() -> None:
    (dsn,) = blocking_dsns("host=127.0.0.1 options='-c jit=on'", {"statement_timeout": "0"})
    options = parse_dsn(dsn)["options"].split(" -c ")
    assert [option for option in options if "statement_timeout" in option] == ["statement_timeout=0"]
    assert options[0] == "-c jit=on"


def test_another_role_is_led_to_the_same_server_where_it_names_the_same_hosts() -> None:
    url, owners = "host=db1,db2 user=service", "host=db1,db2 user=owner password=own sslmode=require"
    server = "host=db2 hostaddr=10.0.0.2 port=5432 user=service application_name=aiopypay"
    assert parse_dsn(at_server(owners, url, server)) == {
        "host": "db2",
        "hostaddr": "10.0.0.2",
        "port": "5432",
        "user": "owner",
        "password": "own",
        "sslmode": "require",
    }
    assert at_server(owners, url, None) == owners
    # Past a pooler.
    assert at_server("host=db1 port=5433 user=owner", url, server) == "host=db1 port=5433 user=owner"
