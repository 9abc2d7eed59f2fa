"""Names that are no settings: those that were meant stop the start, the machine's own are left alone."""

import logging
import re
from pathlib import Path

import pytest

from aiopypay import settings
from aiopypay.setting_names import UnknownSetting, checked
from aiopypay.settings import Settings, known_names, read_environment

KNOWN = known_names()
# The service is named `app`, another one `app-mail`, the database `postgres`.
OF_KUBERNETES = {
    "APP_PORT": "tcp://10.43.7.1:8080",
    "APP_SERVICE_HOST": "10.43.7.1",
    "APP_SERVICE_PORT": "8080",
    "APP_SERVICE_PORT_HTTP": "8080",
    "APP_PORT_8080_TCP": "tcp://10.43.7.1:8080",
    "APP_PORT_8080_TCP_PROTO": "tcp",
    "APP_PORT_8080_TCP_PORT": "8080",
    "APP_PORT_8080_TCP_ADDR": "10.43.7.1",
    "APP_MAIL_PORT": "udp://10.43.7.2:25",
    "APP_MAIL_PORT_25_UDP_ADDR": "10.43.7.2",
    "POSTGRES_PORT": "tcp://10.43.7.3:5432",
    "POSTGRES_SERVICE_HOST": "10.43.7.3",
}


def test_every_setting_that_is_read_is_known_by_its_field() -> None:
    read = set(re.findall(r'"(APP_[A-Z_]+)"', Path(str(settings.__file__)).read_text()))
    assert read == set(KNOWN)
    assert checked(KNOWN, dict.fromkeys(KNOWN, "1"), dict.fromkeys(KNOWN, "2")) == dict.fromkeys(KNOWN, "2")


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("APP_SELFDEPOSIT", "APP_SELF_DEPOSIT"),
        ("app_self_deposit", "APP_SELF_DEPOSIT"),
        ("APP_TRUSTED_PROXY", "APP_TRUSTED_PROXIES"),
        ("APP_OFFLINE_MAX_ORDER", "APP_OFFLINE_MAX_ORDERS"),
        ("APP_OFFLINE_MAXDEBIT", "APP_OFFLINE_MAX_DEBIT"),
        ("APP_SECRET", "APP_SECRET_KEY"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("POSTGRES_PASSWD", "POSTGRES_PASSWORD"),
    ],
)
@pytest.mark.parametrize("is_in_file", [True, False])
def test_a_misspelt_one_stops_the_start_and_names_the_known_one(misspelt: str, meant: str, is_in_file: bool) -> None:
    sources: tuple[dict[str, str], dict[str, str]] = ({misspelt: "no"}, {})
    with pytest.raises(UnknownSetting, match=rf"^{misspelt} is no setting: did you mean {meant}\?$"):
        checked(KNOWN, *(sources if is_in_file else reversed(sources)))


def test_one_that_is_near_none_stops_the_start_in_a_file_and_is_told_in_the_environment(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(UnknownSetting, match=r"^APP_COLOUR is no setting: docs/OPERATING.md lists them$"):
        checked(KNOWN, {"APP_COLOUR": "red"}, {})
    checked(KNOWN, {}, {"APP_COLOUR": "red"})
    assert [(record.levelno, record.args) for record in caplog.records] == [(logging.WARNING, ("APP_COLOUR",))]


@pytest.mark.parametrize(
    "name",
    ["POSTGRES_PASSWORD_FILE", "POSTGRES_INITDB_ARGS", "POSTGRES_HOST_AUTH_METHOD", "DATABASE_USER", "HOST", "PORT"],
)
def test_names_of_others_are_nobody_s_business(name: str, caplog: pytest.LogCaptureFixture) -> None:
    checked(KNOWN, {name: "x"}, {name: "x"})
    assert not caplog.records


def test_what_kubernetes_sets_for_its_services_is_ignored_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    values = checked(KNOWN, {"APP_PORT": "81"}, {**OF_KUBERNETES, "POSTGRES_HOST": "db"})
    read = Settings.from_environment(values)
    assert (read.port, read.host) == (81, "127.0.0.1")
    (record,) = caplog.records
    assert all(name in record.getMessage() for name in OF_KUBERNETES)


def test_a_port_of_ones_own_is_no_ones_of_kubernetes() -> None:
    assert checked(KNOWN, {}, {"APP_PORT": "82"}) == {"APP_PORT": "82"}


def test_both_sources_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("APP_SELFDEPOSIT=no\n")
    with pytest.raises(UnknownSetting, match="APP_SELF_DEPOSIT"):
        read_environment()
    (tmp_path / ".env").unlink()
    monkeypatch.setenv("APP_SELFDEPOSIT", "no")
    with pytest.raises(UnknownSetting, match="APP_SELF_DEPOSIT"):
        read_environment()
