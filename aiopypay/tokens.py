"""Bearer tokens: JWT (RFC 7519), signed with HS256 and nothing else, good for a while and for one state of a user."""

import hmac
import time
from dataclasses import dataclass

import jwt

from aiopypay.errors import NotAuthenticated, StartError
from aiopypay.generated import generated_secret
from aiopypay.settings import SECRET_BYTES_MIN, Settings
from aiopypay.store.users import User

FILE_NAME = "secret-key"
GENERATED_BYTES = 48

ALGORITHM = "HS256"
ISSUER = AUDIENCE = "aiopypay"
VERSION_BYTES = 16
# `ver`: the credential version, which changes with the password and with each deactivation, for good.
REQUIRED = ["exp", "iat", "aud", "iss", "sub", "name", "ver"]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says, its signature, time and purpose verified."""

    user_id: str
    username: str
    version: str


class Tokens:
    """Signs and verifies. Whoever knows the secret can be anybody."""

    def __init__(self, secret: bytes, minutes: int) -> None:
        self._secret = secret
        self.seconds = minutes * 60

    def issue(self, user: User) -> str:
        """Returns a token for this user as they are now."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(user.id),
            "name": user.username,
            "ver": self._version(user),
            "iat": now,
            "exp": now + self.seconds,
        }
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM)

    def claims(self, token: str) -> Claims:
        """Returns what the token says. Raises NotAuthenticated; which part of it is wrong is not told."""
        try:
            document = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                audience=AUDIENCE,
                options={"require": REQUIRED},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise NotAuthenticated("The token is not valid, or no longer") from None
        return Claims(str(document["sub"]), str(document["name"]), str(document["ver"]))

    def fits(self, claims: Claims, user: User) -> bool:
        """Tells whether the token was issued to this user, and nothing that ends tokens has happened since."""
        same = hmac.compare_digest(claims.version.encode(), self._version(user).encode())
        return same and claims.user_id == str(user.id)

    def _version(self, user: User) -> str:
        """Derived from what is stored, so that it changes in the same transaction, and on every node."""
        message = f"{user.id}\0{user.is_active}\0{user.password_hash}"
        if user.deactivations:
            # Not where there was none: tokens issued before these were counted stay good.
            message += f"\0{user.deactivations}"
        return hmac.digest(self._secret, b"credential version\0" + message.encode(), "sha256")[:VERSION_BYTES].hex()


def signing_secret(settings: Settings) -> bytes:
    """Returns the setting's secret, or one generated once into the data directory. Raises StartError."""
    path = settings.data_dir / FILE_NAME
    secret = (settings.secret_key or generated_secret(path, GENERATED_BYTES)).encode()
    if len(secret) < SECRET_BYTES_MIN:
        raise StartError(f"{path} has under {SECRET_BYTES_MIN} bytes: remove it, and another one is generated")
    return secret
