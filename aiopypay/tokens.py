"""Bearer tokens: JWT (RFC 7519), signed with HS256 and nothing else, good for a while and for one state of a user."""

import hmac
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt

from aiopypay.errors import NotAuthenticated, StartError
from aiopypay.generated import generated_secret
from aiopypay.settings import SECRET_BYTES_MIN, Settings, split_keys
from aiopypay.store.users import User

FILE_NAME = "secret-key"
GENERATED_BYTES = 48

ALGORITHM = "HS256"
ISSUER = AUDIENCE = "aiopypay"
VERSION_BYTES = 16
KEY_ID_BYTES = 8
# `ver`: the credential version, which changes with the password and with each deactivation, for good.
REQUIRED = ["exp", "iat", "aud", "iss", "sub", "name", "ver"]
# When a token was issued decides nothing: a neighbour's clock may be ahead, and the own one may have been set back.
_CHECKS: Any = {"require": REQUIRED, "verify_iat": False}


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says, its signature, time and purpose verified."""

    user_id: str
    username: str
    version: str
    # What it was signed with.
    key: bytes = field(repr=False)


class Tokens:
    """Signs with the first of the keys, verifies with any. Whoever knows one can be anybody.

    A token's header names its key (`kid`). One that names none was issued before there could be several.
    """

    def __init__(self, keys: Sequence[bytes], minutes: int) -> None:
        self._keys = {_key_id(key): key for key in keys}
        self.seconds = minutes * 60

    def issue(self, user: User) -> str:
        """Returns a token for this user as they are now."""
        now = int(time.time())
        key_id, key = next(iter(self._keys.items()))
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(user.id),
            "name": user.username,
            "ver": _version(user, key),
            "iat": now,
            "exp": now + self.seconds,
        }
        return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": key_id})

    def claims(self, token: str) -> Claims:
        """Returns what the token says. Raises NotAuthenticated; which part of it is wrong is not told."""
        for key in self._keys_for(token):
            try:
                document = jwt.decode(
                    token, key, algorithms=[ALGORITHM], issuer=ISSUER, audience=AUDIENCE, options=_CHECKS
                )
            except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
                continue
            return Claims(str(document["sub"]), str(document["name"]), str(document["ver"]), key)
        raise NotAuthenticated("The token is not valid, or no longer")

    def fits(self, claims: Claims, user: User) -> bool:
        """Tells whether the token was issued to this user, and nothing that ends tokens has happened since."""
        same = hmac.compare_digest(claims.version.encode(), _version(user, claims.key).encode())
        return same and claims.user_id == str(user.id)

    def _keys_for(self, token: str) -> Iterable[bytes]:
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return ()
        if key_id is None:
            return self._keys.values()
        return (self._keys[key_id],) if key_id in self._keys else ()


def _version(user: User, key: bytes) -> str:
    """Derived from what is stored, so that it changes in the same transaction, and on every node."""
    message = f"{user.id}\0{user.is_active}\0{user.password_hash}"
    if user.deactivations:
        # Not where there was none: tokens issued before these were counted stay good.
        message += f"\0{user.deactivations}"
    return hmac.digest(key, b"credential version\0" + message.encode(), "sha256")[:VERSION_BYTES].hex()


def _key_id(key: bytes) -> str:
    """The same on every node that has the key, of which it says nothing."""
    return hmac.digest(key, b"key id", "sha256")[:KEY_ID_BYTES].hex()


def signing_keys(settings: Settings) -> list[bytes]:
    """Returns the setting's keys, or one generated once into the data directory. The first signs. Raises StartError."""
    path = settings.data_dir / FILE_NAME
    keys = split_keys(settings.secret_key or generated_secret(path, GENERATED_BYTES))
    if any(len(key) < SECRET_BYTES_MIN for key in keys):
        raise StartError(f"{path} has under {SECRET_BYTES_MIN} bytes: remove it, and another one is generated")
    return keys
