"""Whom a request comes from: the forms that proxies write, and what is not believed."""

import logging

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from aiopypay import client_address as module
from aiopypay.client_address import client_address, throttled_address
from aiopypay.settings import Settings

TRUSTED = Settings.from_environment({"APP_TRUSTED_PROXIES": "10.0.0.0/8,fd00::/8"}).trusted_proxies


@pytest.fixture(autouse=True)
def _told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_told", set())
    module._read.cache_clear()


def client(remote: str, *forwarded: str, **others: str) -> str:
    headers = CIMultiDict([("X-Forwarded-For", value) for value in forwarded])
    headers.update({name.replace("_", "-"): value for name, value in others.items()})
    request = make_mocked_request("GET", "/", headers=headers).clone(remote=remote)
    counted = throttled_address(request, TRUSTED)
    address = client_address(request, TRUSTED)
    assert counted == address or counted.endswith("/64")
    return address


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        (" 192.0.2.7 ", "192.0.2.7"),
        ("192.0.2.7:5678", "192.0.2.7"),
        ('"192.0.2.7:5678"', "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ('"[2001:db8::1]:443"', "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:443", "fe80::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:80", "192.0.2.7"),
        ("198.51.100.1, 192.0.2.7", "192.0.2.7"),
        ("198.51.100.1, 192.0.2.7:80, 10.1.2.3:80", "192.0.2.7"),
        ("unknown, 192.0.2.7", "192.0.2.7"),
        ("192.0.2.7,", "192.0.2.7"),
        ("10.1.2.3", "10.1.2.3"),
        ("", "10.0.0.1"),
    ],
)
def test_what_a_trusted_proxy_forwards_is_understood(
    forwarded: str, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert client("10.0.0.1", forwarded) == address
    assert client("fd00::1", forwarded) == address.replace("10.0.0.1", "fd00::1")
    assert not caplog.records


@pytest.mark.parametrize(
    "forwarded", ["unknown", "_hidden", "192.0.2", "192.0.2.7:80:80", "[]", "192.0.2.7, unknown", "nonsense\x7f"]
)
def test_what_is_unreadable_is_told_once_and_is_not_the_proxy(forwarded: str, caplog: pytest.LogCaptureFixture) -> None:
    assert [client("10.0.0.1", forwarded) for _ in range(3)] == ["unknown"] * 3
    assert client("10.0.0.2", "_another") == "unknown"
    assert len(caplog.records) == 1
    assert "is no address" in caplog.text


def test_several_headers_are_one_list() -> None:
    assert client("10.0.0.1", "198.51.100.1", "192.0.2.7, 10.0.0.9") == "192.0.2.7"


def test_a_list_that_is_long_is_read_to_its_end() -> None:
    assert client("10.0.0.1", "198.51.100.1, " * 200 + "192.0.2.7") == "192.0.2.7"
    assert module._read.cache_info().currsize == 0


@pytest.mark.parametrize("header", ["X_Forwarded_For", "Forwarded", "X_Real_IP"])
def test_who_is_not_trusted_is_believed_nothing_and_the_log_says_so(
    header: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        assert client("192.0.2.1", **{header: "198.51.100.1"}) == "192.0.2.1"
    assert len(caplog.records) == 1
    assert "APP_TRUSTED_PROXIES does not name it" in caplog.text


def test_forwarded_is_not_read() -> None:
    assert client("10.0.0.1", Forwarded="for=198.51.100.1") == "10.0.0.1"
    assert client("10.0.0.1", "192.0.2.7", Forwarded="for=198.51.100.1") == "192.0.2.7"


def test_without_a_peer_it_is_unknown() -> None:
    assert client("") == "unknown"


def test_an_ipv6_customer_is_counted_as_one() -> None:
    request = make_mocked_request("GET", "/", headers={"X-Forwarded-For": "[2001:db8::1]:443"}).clone(remote="10.0.0.1")
    assert throttled_address(request, TRUSTED) == "2001:db8::/64"
