"""A server is told no password, and nothing else, before it has proven that it knows it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg2.extensions import parse_dsn

from aiopypay import migrations
from aiopypay.addresses import blocking_dsns
from aiopypay.database import Database
from aiopypay.errors import DatabaseUnavailable, StartError
from aiopypay.preparation import prepare_database
from aiopypay.settings import Settings
from aiopypay.translation import ServerUnproven
from tests.fake_server import IN_CLEAR, WAYS, FakeServer, listening


@pytest.fixture(params=list(WAYS.values()), ids=list(WAYS))
def fake(request: pytest.FixtureRequest) -> Iterator[FakeServer]:
    """It asks for the password in clear, for its MD5, or for none."""
    with listening(request.param) as server:
        yield server


async def test_a_pool_tells_it_nothing(fake: FakeServer) -> None:
    database = Database(fake.dsn, connections=1)
    with pytest.raises(DatabaseUnavailable) as unavailable:
        async with database.transaction():
            pass
    assert isinstance(unavailable.value.__cause__, ServerUnproven)
    assert "secret" not in str(unavailable.value.__cause__)
    fake.close()
    assert fake.told == b""


def test_migrations_tell_it_nothing(fake: FakeServer) -> None:
    with pytest.raises(ServerUnproven, match="have it use scram-sha-256"):
        migrations.apply(fake.dsn)
    fake.close()
    assert fake.told == b""


async def test_a_first_start_says_at_once_what_to_do(fake: FakeServer, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="does not prove that it knows the password") as refused:
        await prepare_database(Settings(database_url=fake.dsn, data_dir=tmp_path))
    assert str(refused.value).isprintable()
    fake.close()
    assert fake.told == b""


async def test_of_several_hosts_the_operator_hears_of_this_one() -> None:
    with listening(IN_CLEAR) as first, listening(IN_CLEAR) as second:
        url = f"host=127.0.0.1,127.0.0.1 port={first.port},{second.port} user=anna password=secret dbname=aiopypay"
        with pytest.raises(DatabaseUnavailable) as unavailable:
            async with Database(url, connections=1).transaction():
                pass
        assert isinstance(unavailable.value.__cause__, ServerUnproven)
    assert first.told + second.told == b""


def required(url: str) -> str | None:
    (dsn,) = blocking_dsns(url, {})
    return parse_dsn(dsn).get("require_auth")


def test_a_password_found_elsewhere_is_not_told_either(monkeypatch: pytest.MonkeyPatch) -> None:
    assert required("host=127.0.0.1") == "!password,!md5"
    monkeypatch.setenv("PGPASSWORD", "secret")
    assert required("host=127.0.0.1") == "scram-sha-256"


def test_the_operators_own_choice_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert required("host=127.0.0.1 password=a require_auth=md5") == "md5"
    # The certificate proves the server.
    assert required("host=127.0.0.1 password=a sslmode=verify-full") is None
    assert required("host=127.0.0.1 password=a sslmode=require") == "scram-sha-256"
    monkeypatch.setenv("PGREQUIREAUTH", "none")
    assert required("host=127.0.0.1 password=a") is None
