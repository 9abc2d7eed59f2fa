"""The superuser's password, set once, when the service first meets its database."""

import logging

from aiopypay.database import Database
from aiopypay.errors import StartError
from aiopypay.generated import generated_secret
from aiopypay.ledger import SUPERUSER_ID
from aiopypay.password_rules import normalised, problem_of
from aiopypay.passwords import Passwords
from aiopypay.settings import Settings
from aiopypay.store.change_log import log_for_nodes
from aiopypay.store.users import UNUSABLE_PASSWORD, password_hash_of, replace_password_hash

SUPERUSER = "superuser"
FILE_NAME = "superuser-password"
GENERATED_BYTES = 18

logger = logging.getLogger(__name__)


async def ensure_password(settings: Settings) -> None:
    """Gives the superuser a password where they have none: the setting's, or one generated into the data directory.

    Of two processes that start together the first wins. A process killed in between leaves the file, and the next
    start takes the password in it. Raises StartError, DatabaseUnavailable.
    """
    assert settings.database_url is not None  # noqa: S101 - the caller has chosen one
    database = Database(settings.database_url, connections=1)
    passwords = Passwords()
    try:
        async with database.transaction() as connection:
            if await password_hash_of(connection, SUPERUSER_ID) != UNUSABLE_PASSWORD:
                return
        password = _chosen(settings) or generated_secret(settings.data_dir / FILE_NAME, GENERATED_BYTES)
        encoded = await passwords.hash(password)
        async with database.transaction() as connection:
            # Not by a node that remembers what it does.
            await log_for_nodes(connection)
            await replace_password_hash(connection, SUPERUSER_ID, UNUSABLE_PASSWORD, encoded)
    finally:
        passwords.close()
        database.close()
    if settings.superuser_password is None:
        logger.warning("The superuser's password is in %s", settings.data_dir / FILE_NAME)


def _chosen(settings: Settings) -> str | None:
    """Returns the setting's password. It is judged when it counts: a later start does not stop over it."""
    password = settings.superuser_password
    problem = password and problem_of(normalised(password), SUPERUSER, settings.password_min_length)
    if problem:
        raise StartError(f"APP_SUPERUSER_PASSWORD {problem}")
    return password
