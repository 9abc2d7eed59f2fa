"""The service's settings: a frozen dataclass read from the environment and a .env file. Bad values stop the start."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Self

import psycopg2
from dotenv import dotenv_values
from psycopg2.extensions import make_dsn, parse_dsn

from aiopypay import setting_names
from aiopypay.setting_names import ENV_FILE, PREFIX, SettingsError

AMOUNT_MAX = Decimal(10**12)
PASSWORD_LENGTH_MAX = 256
WHOLE_NUMBER_MAX = 999_999_999
FREE_BYTES_MAX = 10**15 - 1
# HS256 wants a key as long as its hash (RFC 7518).
SECRET_BYTES_MIN = 32

Network = IPv4Network | IPv6Network

AMOUNT = re.compile(r"[0-9]{1,30}(\.[0-9]{1,30})?", re.ASCII)
CURRENCY_ID = re.compile(r"[A-Z]{3}")
HOST = re.compile(r"[A-Za-z0-9_.:%-]+")
# As a browser sends it: in lower case, without the usual port, nothing behind.
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9_.-]{1,253}|\[[0-9a-f:.]+\])(?::[1-9][0-9]{0,4})?")
USUAL_PORT = re.compile(r"http://.*:80$|https://.*:443$")
WHOLE_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)

DATABASE_URL_EXAMPLE = "postgresql://user:password@127.0.0.1:5432/aiopypay"


@dataclass(frozen=True, slots=True)
class OfflineSettings:
    """What may be accepted without the database; None is without cap. Amounts are in an account's own currency.

    Below `min_free_bytes` of free disk no new order is accepted: the rest is for settling.
    """

    max_amount: Decimal | None = None
    max_debit: Decimal | None = None
    max_orders: int = 1_000_000
    min_free_bytes: int = 1024**3
    max_hours: int = 24
    keep_days: int = 30
    accounts_max: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Settings:
    """What the service is told from outside.

    `database_url` is a libpq DSN (URL or keywords); None means the embedded PostgreSQL under `data_dir`.
    `migration_url` is the same for the role that migrates; None where the service's role does it.
    `signup_credit` maps currency ids to the amount that a new user's account opens with. A user's balance is their
    first account in `base_currency`. `secret_key` signs tokens (`split_keys`: it may be several); None means one
    generated under `data_dir`.
    """

    database_url: str | None = field(default=None, repr=False)
    migration_url: str | None = field(default=None, repr=False)
    host: str = "127.0.0.1"
    port: int = 8080
    data_dir: Path = Path("var")
    superuser_password: str | None = field(default=None, repr=False)
    signup_credit: Mapping[str, Decimal] = field(default_factory=lambda: MappingProxyType({}))
    password_min_length: int = 8
    self_deposit: bool = True
    base_currency: str = "USD"
    secret_key: str | None = field(default=None, repr=False)
    token_minutes: int = 15
    registrations_per_minute: int = 600
    accounts_per_user_max: int = 100
    trusted_proxies: tuple[Network, ...] = ()
    cors_origins: tuple[str, ...] = ()
    offline: OfflineSettings = field(default_factory=OfflineSettings)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Reads the settings; an empty value counts as unset. Raises `SettingsError` for the first bad one."""
        values = _present(environment)
        database_url = _database_url(values)
        password_min_length = _number(values, "APP_PASSWORD_MIN_LENGTH", 8, 1, PASSWORD_LENGTH_MAX)
        return cls(
            database_url=database_url,
            migration_url=_migration_url(values, database_url),
            host=_host(values, "APP_HOST") or "127.0.0.1",
            port=_number(values, "APP_PORT", 8080, 1, 65535),
            data_dir=_directory(values, "APP_DATA_DIR", Path("var")),
            superuser_password=_superuser_password(values, password_min_length),
            signup_credit=_signup_credit(values),
            password_min_length=password_min_length,
            self_deposit=_yes_or_no(values, "APP_SELF_DEPOSIT", True),
            base_currency=_base_currency(values),
            secret_key=_secret_key(values),
            token_minutes=_number(values, "APP_TOKEN_MINUTES", 15, 1, 525_600),
            registrations_per_minute=_number(values, "APP_REGISTRATIONS_PER_MINUTE", 600, 1, WHOLE_NUMBER_MAX),
            accounts_per_user_max=_number(values, "APP_ACCOUNTS_PER_USER_MAX", 100, 1, 10_000),
            trusted_proxies=_trusted_proxies(values),
            cors_origins=_cors_origins(values),
            offline=_offline(values),
        )

    @property
    def service_role(self) -> str | None:
        """The role that is given the service's rights after each migration; None where one role does both."""
        if self.database_url is None or self.migration_url is None:
            return None
        service, owner = (parse_dsn(url).get("user") for url in (self.database_url, self.migration_url))
        return None if service == owner else service


def read_environment() -> dict[str, str]:
    """The process's environment over the `.env` file of the working directory, where there is one.

    Raises `SettingsError` if that file cannot be read, or a name is a setting's misspelt.
    """
    try:
        file_values = dotenv_values(ENV_FILE, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(
            ENV_FILE, f"cannot be read ({reason}); it holds lines of NAME=value", "APP_PORT=8080"
        ) from None
    from_file = {name: value for name, value in file_values.items() if value}
    environment = {name: value for name, value in os.environ.items() if value}
    return setting_names.checked(known_names(), from_file, environment)


def known_names() -> list[str]:
    """Returns the names `APP_…` of all settings: those of the fields, so that a new one is known by itself."""
    names = [one.name for one in fields(Settings) if one.name not in ("database_url", "offline")]
    names += [f"offline_{one.name}" for one in fields(OfflineSettings)]
    return [PREFIX + name.upper() for name in names]


def _present(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings that are there and not empty. Values that are not UTF-8 could be neither sent nor hashed."""
    values = {name: value for name, value in environment.items() if value}
    for name, value in values.items():
        if name.startswith(("APP_", "POSTGRES_", "DATABASE_")) and not _is_utf8(value):
            raise SettingsError(name, "is not valid UTF-8", "text")
    return values


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def _number(values: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = values.get(name)
    if text is None:
        return default
    if not WHOLE_NUMBER.fullmatch(text) or not low <= int(text) <= high:
        raise SettingsError(name, f"must be a whole number from {low} to {high}, not {_shown(text)}", str(default))
    return int(text)


def _offline(values: Mapping[str, str]) -> OfflineSettings:
    return OfflineSettings(
        max_amount=_amount(values, "APP_OFFLINE_MAX_AMOUNT"),
        max_debit=_amount(values, "APP_OFFLINE_MAX_DEBIT"),
        max_orders=_number(values, "APP_OFFLINE_MAX_ORDERS", 1_000_000, 1, WHOLE_NUMBER_MAX),
        min_free_bytes=_number(values, "APP_OFFLINE_MIN_FREE_BYTES", 1024**3, 0, FREE_BYTES_MAX),
        max_hours=_number(values, "APP_OFFLINE_MAX_HOURS", 24, 1, WHOLE_NUMBER_MAX),
        keep_days=_number(values, "APP_OFFLINE_KEEP_DAYS", 30, 1, 36_500),
        accounts_max=_number(values, "APP_OFFLINE_ACCOUNTS_MAX", 1_000_000, 0, WHOLE_NUMBER_MAX),
    )


def _amount(values: Mapping[str, str], name: str) -> Decimal | None:
    text = values.get(name)
    if text is None:
        return None
    if not AMOUNT.fullmatch(text) or not 0 < Decimal(text) <= AMOUNT_MAX:
        raise SettingsError(name, f"must be an amount above 0 and at most {AMOUNT_MAX}, not {_shown(text)}", "500.00")
    return Decimal(text)


def _host(values: Mapping[str, str], name: str) -> str | None:
    text = values.get(name)
    if text is not None and not HOST.fullmatch(text):
        raise SettingsError(name, f"must be one host name or address, not {_shown(text)}", "127.0.0.1")
    return text


def _directory(values: Mapping[str, str], name: str, default: Path) -> Path:
    try:
        return Path(values[name]).expanduser() if name in values else default
    except RuntimeError:
        raise SettingsError(name, "names the home directory of an unknown user", "/var/lib/aiopypay") from None


def _database_url(values: Mapping[str, str]) -> str | None:
    """DATABASE_URL, or a DSN composed of POSTGRES_*, or None. Nothing of the URL is echoed: it holds a password."""
    if "DATABASE_URL" in values:
        return _checked_url(values, "DATABASE_URL")
    # An absolute path is a directory with a Unix socket, as libpq has it.
    host = values.get("POSTGRES_HOST")
    if host is None:
        return None
    user = values.get("POSTGRES_USER", "postgres")
    return make_dsn(
        host=host if host.startswith("/") else _host(values, "POSTGRES_HOST"),
        port=_number(values, "POSTGRES_PORT", 5432, 1, 65535),
        user=user,
        dbname=values.get("POSTGRES_DB", user),
        password=values.get("POSTGRES_PASSWORD"),
    )


def _checked_url(values: Mapping[str, str], name: str) -> str:
    url = values[name]
    try:
        parts = parse_dsn(url)
    except psycopg2.ProgrammingError:
        raise SettingsError(name, "is not a PostgreSQL URL", DATABASE_URL_EXAMPLE) from None
    hosts, ports = (parts.get("host") or parts.get("hostaddr", "")).split(","), parts.get("port", "5432").split(",")
    if len(parts.get("hostaddr", parts.get("host", "")).split(",")) != len(hosts):
        raise SettingsError(name, "has not one address for each host", DATABASE_URL_EXAMPLE)
    if len(ports) not in (1, len(hosts)):
        raise SettingsError(name, "has more ports than one, but not one for each host", DATABASE_URL_EXAMPLE)
    if not all(WHOLE_NUMBER.fullmatch(port) and 1 <= int(port) <= 65535 for port in ports if port):
        raise SettingsError(name, "has a port that is not from 1 to 65535", DATABASE_URL_EXAMPLE)
    return url


def _migration_url(values: Mapping[str, str], database_url: str | None) -> str | None:
    """APP_MIGRATION_URL, to whose tables the user of the service is given its rights, so that it must have a name."""
    name = "APP_MIGRATION_URL"
    if name not in values:
        return None
    if database_url is None:
        raise SettingsError("DATABASE_URL", f"must be set where {name} is", DATABASE_URL_EXAMPLE)
    if "user" not in parse_dsn(database_url):
        raise SettingsError("DATABASE_URL", f"must name the user where {name} is set", DATABASE_URL_EXAMPLE)
    return _checked_url(values, name)


def _superuser_password(values: Mapping[str, str], length_min: int) -> str | None:
    name = "APP_SUPERUSER_PASSWORD"
    password = values.get(name)
    if password is not None and not length_min <= len(password) <= PASSWORD_LENGTH_MAX:
        problem = f"must have {length_min} to {PASSWORD_LENGTH_MAX} characters, and has {len(password)}"
        raise SettingsError(name, problem, "a-long-passphrase-of-yours")
    return password


def _yes_or_no(values: Mapping[str, str], name: str, default: bool) -> bool:
    text = values.get(name, "yes" if default else "no")
    if text not in ("yes", "no"):
        raise SettingsError(name, f"must be yes or no, not {_shown(text)}", "no")
    return text == "yes"


def _base_currency(values: Mapping[str, str]) -> str:
    currency_id = values.get("APP_BASE_CURRENCY", "USD")
    if not CURRENCY_ID.fullmatch(currency_id):
        raise SettingsError(
            "APP_BASE_CURRENCY", f"must be a currency's three letters, not {_shown(currency_id)}", "USD"
        )
    return currency_id


def _secret_key(values: Mapping[str, str]) -> str | None:
    name = "APP_SECRET_KEY"
    key = values.get(name)
    shortest = SECRET_BYTES_MIN if key is None else min(map(len, split_keys(key)))
    if shortest < SECRET_BYTES_MIN:
        problem = (
            f"must have at least {SECRET_BYTES_MIN} bytes (of several keys, between commas, each), and has {shortest}"
        )
        raise SettingsError(name, problem, "$(openssl rand -hex 32)")
    return key


def split_keys(text: str) -> list[bytes]:
    """Returns the keys that a secret is made of, with commas between them: the first signs, the others verify too."""
    return [key.strip().encode() for key in text.split(",")] if "," in text else [text.encode()]


def _trusted_proxies(values: Mapping[str, str]) -> tuple[Network, ...]:
    name = "APP_TRUSTED_PROXIES"
    networks: list[Network] = []
    for item in values[name].split(",") if name in values else ():
        try:
            networks.append(ip_network(item.strip()))
        except ValueError:
            problem = f"has {_shown(item)}, which is neither an address nor a network"
            raise SettingsError(name, problem, "127.0.0.1,10.0.0.0/8") from None
    return tuple(networks)


def _cors_origins(values: Mapping[str, str]) -> tuple[str, ...]:
    name = "APP_CORS_ORIGINS"
    origins = tuple(item.strip() for item in values[name].split(",")) if name in values else ()
    for origin in origins:
        if not ORIGIN.fullmatch(origin) or USUAL_PORT.match(origin):
            problem = f"has {_shown(origin)}, which is no origin as browsers send it (in lower case, nothing behind it)"
            raise SettingsError(name, problem, "https://shop.example,http://localhost:3000")
    return origins


def _signup_credit(values: Mapping[str, str]) -> Mapping[str, Decimal]:
    credit: dict[str, Decimal] = {}
    for item in values.get("APP_SIGNUP_CREDIT", "").split(",") if "APP_SIGNUP_CREDIT" in values else ():
        currency_id, colon, amount = item.strip().partition(":")
        if not colon or not CURRENCY_ID.fullmatch(currency_id):
            raise _bad_credit(f"has {_shown(item)}, which is not CURRENCY:AMOUNT")
        if currency_id in credit:
            raise _bad_credit(f"names {currency_id} twice")
        if not AMOUNT.fullmatch(amount) or not 0 < Decimal(amount) <= AMOUNT_MAX:
            raise _bad_credit(f"has the amount {_shown(amount)}, which is not above 0 and at most {AMOUNT_MAX}")
        credit[currency_id] = Decimal(amount)
    return MappingProxyType(credit)


def _bad_credit(problem: str) -> SettingsError:
    return SettingsError("APP_SIGNUP_CREDIT", problem, "USD:100,EUR:5")


def _shown(text: str) -> str:
    """The value as it can stand in a message of one line: quoted, without control characters, cut."""
    return repr(text if len(text) <= 40 else text[:40] + "…")
