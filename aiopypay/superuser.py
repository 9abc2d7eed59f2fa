"""The superuser's password, set once, when the service first meets its database."""

import logging
import os
import secrets
from pathlib import Path

from aiopypay.database import Database
from aiopypay.errors import StartError
from aiopypay.ledger import SUPERUSER_ID
from aiopypay.passwords import Passwords
from aiopypay.settings import Settings
from aiopypay.store.users import UNUSABLE_PASSWORD, password_hash_of, replace_password_hash

FILE_NAME = "superuser-password"

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
        password = settings.superuser_password or _generated(settings.data_dir / FILE_NAME)
        encoded = await passwords.hash(password)
        async with database.transaction() as connection:
            await replace_password_hash(connection, SUPERUSER_ID, UNUSABLE_PASSWORD, encoded)
    finally:
        passwords.close()
        database.close()
    if settings.superuser_password is None:
        logger.warning("The superuser's password is in %s", settings.data_dir / FILE_NAME)


def _generated(path: Path) -> str:
    """Returns the password in the file, which is made, readable by its owner alone, where it is missing."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(18) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        pass
    except OSError as error:
        raise StartError(f"cannot write {path} ({error.strerror}): set APP_DATA_DIR to a writable directory") from error
    password = path.read_text().strip()
    if not password:
        raise StartError(f"{path} is empty: remove it, and a new password is generated")
    return password
