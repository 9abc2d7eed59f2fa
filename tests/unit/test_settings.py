"""Settings: what the environment may say, and the one line that stops the start where it says something else."""

import re
from dataclasses import fields
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path

import pytest
from psycopg2.extensions import parse_dsn

from aiopypay.setting_names import DATABASE_NAMES, SettingsError
from aiopypay.settings import OfflineSettings, Settings, known_names, read_environment

ROOT = Path(__file__).parents[2]

SECRET = "s3cret-of-the-database"


def test_an_empty_environment_means_the_embedded_database_and_the_defaults() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings()
    assert settings.database_url is None
    assert (settings.host, settings.port, settings.data_dir) == ("127.0.0.1", 8080, Path("var"))
    assert settings.superuser_password is None
    assert settings.signup_credit == {}
    assert settings.password_min_length == 8


def test_an_empty_value_is_an_unset_one() -> None:
    names = ["DATABASE_URL", "POSTGRES_HOST", "APP_HOST", "APP_PORT", "APP_DATA_DIR", "APP_SIGNUP_CREDIT"]
    assert Settings.from_environment(dict.fromkeys(names, "")) == Settings()


def test_every_setting_is_read() -> None:
    environment = {
        "APP_HOST": "::1",
        "APP_PORT": "65535",
        "APP_DATA_DIR": "/srv/data",
        "APP_SIGNUP_CREDIT": "USD:100, EUR:5.50",
        "APP_PASSWORD_MIN_LENGTH": "4",
        "APP_SUPERUSER_PASSWORD": "four",
        "APP_SELF_DEPOSIT": "no",
        "APP_BASE_CURRENCY": "EUR",
        "APP_SECRET_KEY": "é" * 16,
        "APP_TOKEN_MINUTES": "60",
        "APP_REGISTRATIONS_PER_MINUTE": "5",
        "APP_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8,2001:db8::/32",
        "APP_CORS_ORIGINS": "https://shop.example, http://localhost:3000,capacitor://localhost,http://[::1]:8443",
        "DATABASE_URL": "postgresql://a:b@127.0.0.1/c",
    }
    assert Settings.from_environment(environment) == Settings(
        database_url="postgresql://a:b@127.0.0.1/c",
        host="::1",
        port=65535,
        data_dir=Path("/srv/data"),
        superuser_password="four",
        signup_credit={"USD": Decimal(100), "EUR": Decimal("5.50")},
        password_min_length=4,
        self_deposit=False,
        base_currency="EUR",
        secret_key="é" * 16,
        token_minutes=60,
        registrations_per_minute=5,
        trusted_proxies=(ip_network("127.0.0.1"), ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")),
        cors_origins=(
            *("https://shop.example", "http://localhost:3000"),
            *("capacitor://localhost", "http://[::1]:8443"),
        ),
    )


def test_the_sign_up_credit_is_exact_and_cannot_be_changed() -> None:
    credit = Settings.from_environment({"APP_SIGNUP_CREDIT": "USD:0.1"}).signup_credit
    assert credit == {"USD": Decimal("0.1")}
    with pytest.raises(TypeError):
        credit["USD"] = Decimal(1)  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("APP_PORT", value) for value in ("0", "65536", "-1", "http", "80.0", "٨٠", " 80", "9" * 5000)],
        *[("APP_PASSWORD_MIN_LENGTH", value) for value in ("0", "257", "eight", "-8")],
        *[("APP_HOST", value) for value in ("http://127.0.0.1", "a b", "127.0.0.1\n")],
        *[
            ("APP_SIGNUP_CREDIT", value)
            for value in (
                *("USD", "USD:", ":100", "USD=100", "usd:100", "USDX:1", "USD:1,", ",USD:1", "USD:1;EUR:1"),
                *("USD:0", "USD:0.00", "USD:-1", "USD:1e2", "USD:1.", "USD:.5", "USD:nan", "USD:1_000", "USD:١٠"),
                *("USD:1000000000000.01", "USD:" + "9" * 5000, "USD:1,USD:2"),
            )
        ],
        *[("APP_SELF_DEPOSIT", value) for value in ("true", "0", "No", " no")],
        *[("APP_BASE_CURRENCY", value) for value in ("usd", "USDX", "$")],
        *[("APP_SECRET_KEY", value) for value in ("x" * 31, "é" * 15, "x" * 32 + ",", "x" * 40 + "," + "y" * 31)],
        *[("APP_TOKEN_MINUTES", value) for value in ("0", "-1", "1.5", "525601")],
        *[("APP_REGISTRATIONS_PER_MINUTE", value) for value in ("0", "x")],
        *[("APP_OFFLINE_MAX_ORDERS", value) for value in ("0", "1000000000")],
        *[("APP_OFFLINE_MIN_FREE_BYTES", value) for value in ("-1", "1G", "9" * 16)],
        *[("APP_TRUSTED_PROXIES", value) for value in ("localhost", "127.0.0.1,", "10.0.0.1/8", "*", "127.0.0.1;::1")],
        *[
            ("APP_CORS_ORIGINS", value)
            for value in (
                *(
                    "*",
                    "null",
                    "shop.example",
                    "//shop.example",
                    "https://",
                    "https://*.example",
                    "https://shop.example/",
                ),
                *(
                    "https://Shop.example",
                    "https://shop.example:443",
                    "http://shop.example:80",
                    "https://user@shop.example",
                ),
                *(
                    "https://shop.example,",
                    "https://shop.example https://b.example",
                    "https://shop.example:0",
                    "https://é",
                ),
                *("https://shop.example/*", "https://" + "x" * 5000),
            )
        ],
        ("APP_SUPERUSER_PASSWORD", "short"),
        ("APP_SUPERUSER_PASSWORD", "x" * 257),
        ("APP_SUPERUSER_PASSWORD", "\udcff" * 10),
        ("APP_DATA_DIR", "~no-such-user-as-this/var"),
        ("DATABASE_URL", f"mysql://user:{SECRET}@127.0.0.1/aiopypay"),
        ("DATABASE_URL", f"postgresql://user:{SECRET}@127.0.0.1:port/aiopypay"),
        ("DATABASE_URL", f"postgresql://user:{SECRET}@127.0.0.1:0/aiopypay"),
        ("DATABASE_URL", f"postgresql://user:{SECRET}@127.0.0.1:65536/aiopypay"),
        ("DATABASE_URL", f"postgresql://user:{SECRET}@a,b,c/d?port=1,2"),
        ("DATABASE_URL", f"postgresql://user:{SECRET}@a,b/d?hostaddr=127.0.0.1"),
        ("DATABASE_URL", f"postgresql://user:{SECRET}@127.0.0.1/aiopypay?nonsense=1"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_setting_and_an_example(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({name: value})
    message = str(caught.value)
    assert message.startswith(f"{name} ")
    assert f"for example {name}=" in message
    assert message.isprintable()
    assert len(message) < 250
    assert SECRET not in message


def test_no_message_shows_the_superuser_password() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({"APP_SUPERUSER_PASSWORD": "hushhus"})
    assert "hushhus" not in str(caught.value)


def test_the_example_in_each_message_is_accepted() -> None:
    for name, value in {"APP_PORT": "x", "APP_SIGNUP_CREDIT": "x", "DATABASE_URL": "x", "APP_HOST": "/"}.items():
        with pytest.raises(SettingsError) as caught:
            Settings.from_environment({name: value})
        Settings.from_environment({name: str(caught.value).rpartition(f"{name}=")[2]})


def test_a_printed_settings_object_holds_no_secret() -> None:
    settings = Settings.from_environment(
        {"DATABASE_URL": f"postgresql://u:{SECRET}@127.0.0.1/d", "APP_SUPERUSER_PASSWORD": SECRET}
    )
    assert SECRET not in repr(settings)


class TestDatabaseURL:
    def test_it_beats_the_single_settings(self) -> None:
        environment = {"DATABASE_URL": "postgresql://127.0.0.1/one", "POSTGRES_HOST": "two"}
        assert Settings.from_environment(environment).database_url == "postgresql://127.0.0.1/one"

    def test_it_may_be_keywords(self) -> None:
        dsn = "host=127.0.0.1 dbname=aiopypay"
        assert Settings.from_environment({"DATABASE_URL": dsn}).database_url == dsn

    @pytest.mark.parametrize(
        "dsn", ["postgresql://a,b:5433/d", "hostaddr=127.0.0.1,127.0.0.2 port=1,2", "host=a,b hostaddr=127.0.0.1,::1"]
    )
    def test_it_may_name_several_hosts(self, dsn: str) -> None:
        assert Settings.from_environment({"DATABASE_URL": dsn}).database_url == dsn

    def test_it_is_composed_of_the_single_settings(self) -> None:
        environment = {
            "POSTGRES_HOST": "db.example",
            "POSTGRES_PORT": "5433",
            "POSTGRES_USER": "o'neil",
            "POSTGRES_DB": "pay ments",
            "POSTGRES_PASSWORD": r"a b'c\d=@:/",
        }
        assert parse_dsn(Settings.from_environment(environment).database_url or "") == {
            "host": "db.example",
            "port": "5433",
            "user": "o'neil",
            "dbname": "pay ments",
            "password": r"a b'c\d=@:/",
        }

    def test_a_host_alone_is_enough(self) -> None:
        database_url = Settings.from_environment({"POSTGRES_HOST": "db"}).database_url
        assert parse_dsn(database_url or "") == {
            "host": "db",
            "port": "5432",
            "user": "postgres",
            "dbname": "postgres",
        }

    def test_the_others_without_a_host_mean_the_embedded_one(self) -> None:
        assert Settings.from_environment({"POSTGRES_USER": "a", "POSTGRES_PASSWORD": "b"}).database_url is None

    def test_a_bad_port_is_named_as_such(self) -> None:
        with pytest.raises(SettingsError, match=r"^POSTGRES_PORT "):
            Settings.from_environment({"POSTGRES_HOST": "db", "POSTGRES_PORT": "0"})


class TestReadEnvironment:
    @pytest.fixture(autouse=True)
    def directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        for name in ("APP_PORT", "APP_HOST", "APP_DATA_DIR", "POSTGRES_PASSWORD"):
            monkeypatch.delenv(name, raising=False)
        return tmp_path

    def test_a_file_is_read(self, directory: Path) -> None:
        (directory / ".env").write_text("# a comment\nAPP_PORT=81\nAPP_HOST='::1'\nPOSTGRES_PASSWORD=a${HOME}b\n")
        environment = read_environment()
        assert environment["APP_PORT"] == "81"
        assert environment["APP_HOST"] == "::1"
        # A dollar in a password is a dollar.
        assert environment["POSTGRES_PASSWORD"] == "a${HOME}b"

    def test_the_environment_beats_the_file_but_not_with_an_empty_value(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (directory / ".env").write_text("APP_PORT=81\nAPP_HOST=10.0.0.1\n")
        monkeypatch.setenv("APP_PORT", "82")
        monkeypatch.setenv("APP_HOST", "")
        environment = read_environment()
        assert environment["APP_PORT"] == "82"
        assert environment["APP_HOST"] == "10.0.0.1"

    def test_no_file_is_fine(self) -> None:
        assert "APP_PORT" not in read_environment()

    def test_a_file_that_is_not_text_is_one_line(self, directory: Path) -> None:
        (directory / ".env").write_bytes(b"APP_PORT=\xff\xfe\n")
        with pytest.raises(SettingsError, match=r"^\.env cannot be read"):
            read_environment()


class TestMigrationURL:
    OWNER = "postgresql://owner:secret@127.0.0.1/aiopypay"
    SERVICE = "postgresql://service:secret@127.0.0.1/aiopypay"

    def test_it_names_another_role_than_the_services(self) -> None:
        settings = Settings.from_environment({"DATABASE_URL": self.SERVICE, "APP_MIGRATION_URL": self.OWNER})
        assert (settings.migration_url, settings.service_role) == (self.OWNER, "service")
        assert "secret" not in repr(settings)

    def test_without_it_or_with_the_same_user_one_role_does_all(self) -> None:
        assert Settings.from_environment({"DATABASE_URL": self.SERVICE}).service_role is None
        same = {"DATABASE_URL": self.SERVICE, "APP_MIGRATION_URL": f"{self.SERVICE}?sslmode=require"}
        assert Settings.from_environment(same).service_role is None

    @pytest.mark.parametrize(
        ("database_url", "migration_url", "named"),
        [
            (None, OWNER, "DATABASE_URL must be set"),
            ("host=127.0.0.1", OWNER, "DATABASE_URL must name the user"),
            (SERVICE, "http://127.0.0.1", "APP_MIGRATION_URL is not a PostgreSQL URL"),
        ],
    )
    def test_a_bad_one_is_one_line(self, database_url: str | None, migration_url: str, named: str) -> None:
        values = {"DATABASE_URL": database_url or "", "APP_MIGRATION_URL": migration_url}
        with pytest.raises(SettingsError, match=named) as caught:
            Settings.from_environment(values)
        assert str(caught.value).isprintable()
        assert "secret" not in str(caught.value)


def test_the_caps_without_the_database() -> None:
    offline = Settings.from_environment({"APP_OFFLINE_MAX_ORDERS": "", "APP_OFFLINE_MIN_FREE_BYTES": ""}).offline
    assert (offline.max_orders, offline.min_free_bytes) == (1_000_000, 1024**3)
    chosen = {"APP_OFFLINE_MAX_ORDERS": "5", "APP_OFFLINE_MIN_FREE_BYTES": "107374182400"}
    offline = Settings.from_environment(chosen).offline
    assert (offline.max_orders, offline.min_free_bytes) == (5, 100 * 1024**3)
    assert Settings.from_environment({"APP_OFFLINE_MIN_FREE_BYTES": "0"}).offline.min_free_bytes == 0


class TestDocuments:
    """docs/OPERATING.md has each setting once, with its default; docker-compose.yml hands each on."""

    documented = re.findall(r"^\| (`[A-Z].*?) \|.*\| (.*?) \|$", (ROOT / "docs/OPERATING.md").read_text(), re.MULTILINE)

    def test_every_setting_is_documented_once(self) -> None:
        names = [name for cell, _ in self.documented for name in re.findall(r"`([A-Z_]+)`", cell)]
        assert sorted(names) == sorted([*known_names(), *DATABASE_NAMES])

    def test_numbers_are_the_defaults(self) -> None:
        defaults = {
            f"APP_{part}{one.name.upper()}": one.default
            for part, settings in (("", Settings), ("OFFLINE_", OfflineSettings))
            for one in fields(settings)
            if type(one.default) is int
        }
        told = {cell.strip("`"): default for cell, default in self.documented}
        told["APP_PORT"] = told["APP_HOST`, `APP_PORT"].split(", ")[1]
        for name, default in defaults.items():
            assert int(re.sub(r" \(.*|(?<=\d) (?=\d)", "", told[name])) == default, name

    def test_containers_are_handed_all_but_what_they_set_themselves(self) -> None:
        handed_on = re.findall(
            r"^ +(APP_[A-Z_]+): \$\{\1:-\}$", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE
        )
        themselves = ["APP_HOST", "APP_PORT", "APP_DATA_DIR", "APP_MIGRATION_URL"]
        assert sorted([*handed_on, *themselves]) == sorted(known_names())
