"""The names of settings. One that means nothing is a mistake that nobody would see: a door left open, a cap not set."""

import difflib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence

ENV_FILE = ".env"
DATABASE_NAMES = (
    "DATABASE_URL",
    "POSTGRES_HOST",
    "POSTGRES_PORT",
    "POSTGRES_USER",
    "POSTGRES_DB",
    "POSTGRES_PASSWORD",
)
PREFIX = "APP_"
PREFIXES = (PREFIX, "POSTGRES_", "DATABASE_")
# How much of two names must be alike, underscores left out. APP_TRUSTED_PROXY has 0.87 of the right one; but so has
# POSTGRES_PASSWORD_FILE, which is PostgreSQL's.
NEAR = {True: 0.85, False: 0.9}

# What Kubernetes puts into every container for a service named `app`, `app-something` or `postgres`.
KUBERNETES = re.compile(
    r"(APP|POSTGRES)(_.+)?_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
KUBERNETES_URL = re.compile(r"(APP|POSTGRES)(_.+)?_PORT=(tcp|udp|sctp)://.*", re.IGNORECASE)

logger = logging.getLogger(__name__)


class SettingsError(Exception):
    """A setting has a bad value. The message is one line: the setting, the problem, an example; never a secret."""

    def __init__(self, name: str, problem: str, example: str) -> None:
        super().__init__(f"{name} {problem}, for example {example if name == ENV_FILE else f'{name}={example}'}")


class UnknownSetting(SettingsError):
    """A name is no setting's. The message is one line: the name, and the known one that is near it."""

    def __init__(self, name: str, near: str | None) -> None:
        told = f"did you mean {near}?" if near else "docs/OPERATING.md lists them"
        Exception.__init__(self, f"{name} is no setting: {told}")


def checked(known: Sequence[str], from_file: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment over the file, without what Kubernetes has put there. `known` are the names `APP_…`.

    Raises UnknownSetting for an `APP_…` in the file that is not known, and for a name near a known one, in either.
    Another `APP_…` in the environment may be somebody else's: the log warns.
    """
    ours = {name: value for name, value in environment.items() if not _is_of_kubernetes(name, value)}
    if len(ours) < len(environment):
        ignored = ", ".join(sorted(environment.keys() - ours.keys()))
        logger.info("Kubernetes has set for its services, and it is ignored here: %s.", ignored)
    names = (*known, *DATABASE_NAMES)
    for name in from_file:
        _refuse_near(name, names)
        if name.upper().startswith(PREFIX) and name not in known:
            raise UnknownSetting(name, None)
    for name in ours:
        if name.upper().startswith(PREFIXES):
            _refuse_near(name, names)
        if name.startswith(PREFIX) and name not in known:
            logger.warning("%s is no setting of this service, and is ignored.", name)
    return {**from_file, **ours}


def _refuse_near(name: str, known: Iterable[str]) -> None:
    by_letters = {_letters(one): one for one in known}
    cutoff = NEAR[name.upper().startswith(PREFIX)]
    near = difflib.get_close_matches(_letters(name), by_letters, n=1, cutoff=cutoff)
    if near and by_letters[near[0]] != name:
        raise UnknownSetting(name, by_letters[near[0]])


def _letters(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", name.upper())


def _is_of_kubernetes(name: str, value: str) -> bool:
    return bool(KUBERNETES.fullmatch(name) or KUBERNETES_URL.fullmatch(f"{name}={value}"))
