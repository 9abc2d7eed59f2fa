"""One hierarchy of errors. Each knows its HTTP status, its problem type and its title (RFC 9457).

The message of a problem is its *detail*: a sentence for the person who sent the request.
"""

from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID


class StartError(Exception):
    """The service cannot start. The message is one line that says what to do."""


class Problem(Exception):
    """A request that is not answered with success."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal server error"
    retry_after_seconds: int | None = None
    # Of the order that it is about, where that can be read.
    location: str | None = None
    # The code that OAuth has for it (RFC 6749, 5.2), where a token was asked for.
    error: str | None = None

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        # Which transfer of a bulk it is about, from 0, where it is the answer to all of them.
        self.index: int | None = None

    def for_readers(self) -> "Problem":
        """Returns the problem as it is told to those who only ask: it says nothing of what was booked, or not."""
        return self

    def members(self, instance: str | None, status: int | None = None) -> dict[str, str | int | None]:
        """Returns the members of application/problem+json (RFC 9457). `instance` is the id of the request."""
        members: dict[str, str | int | None] = {
            "type": f"/problems/{self.slug}",
            "title": self.title,
            "status": status or self.status,
            "detail": self.detail,
            "instance": instance,
        }
        if self.field is not None:
            members["field"] = self.field
        if self.index is not None:
            members["index"] = self.index
        if self.error is not None:
            members["error"] = self.error
        return members


class InternalError(Problem):
    """A defect of ours. The detail never tells the cause; the log does, under the request id."""

    def __init__(
        self, detail: str = "The server met an unexpected condition. Its log has it under the request id."
    ) -> None:
        super().__init__(detail)


class InvalidRequest(Problem):
    """A missing, repeated, unknown or malformed part of the request; `field` names it."""

    status, slug, title = 400, "invalid-request", "Invalid request"


class UnsupportedGrantType(InvalidRequest):
    """A token is given for a name and a password, and for nothing else."""

    slug, title = "unsupported-grant-type", "Unsupported grant type"


class UnknownAccount(InvalidRequest):
    """`from` or `to` is no account that can be used in a transfer."""

    slug, title = "unknown-account", "Unknown account"


class SameAccount(InvalidRequest):
    """`from` and `to` are one account."""

    slug, title = "same-account", "Same account"


class CurrencyMismatch(InvalidRequest):
    """`from` and `to` have different currencies; there is no conversion."""

    slug, title = "currency-mismatch", "Currency mismatch"


class UnknownCurrency(InvalidRequest):
    """There is no such currency."""

    slug, title = "unknown-currency", "Unknown currency"


class NotAuthenticated(Problem):
    """No credentials, or none that are valid."""

    status, slug, title = 401, "not-authenticated", "Not authenticated"


class InsufficientFunds(Problem):
    """The paying account does not cover the amount and its commission. Nothing was booked.

    `balance` is what it holds; `is_offline` tells that it was judged on what was last known, without the database.
    """

    status, slug, title = 402, "insufficient-funds", "Insufficient funds"

    def __init__(self, detail: str, *, balance: Decimal = Decimal(0), is_offline: bool = False) -> None:
        super().__init__(detail)
        self.balance = balance
        self.is_offline = is_offline


class Forbidden(Problem):
    """The caller is known, but this is not theirs."""

    status, slug, title = 403, "forbidden", "Forbidden"


class WrongPassword(Forbidden):
    """`current_password` is not the caller's password."""

    slug, title = "wrong-password", "Wrong password"


class UserDeactivated(Forbidden):
    """The right password of a deactivated user."""

    slug, title = "user-deactivated", "User deactivated"


class CrossSite(Forbidden):
    """A page of another site has asked a browser for this. Nothing was done."""

    slug, title = "cross-site", "Another site's page"


class NotFound(Problem):
    """There is nothing under this address."""

    status, slug, title = 404, "not-found", "Not found"


class MethodNotAllowed(Problem):
    """The address exists, but not for this method."""

    status, slug, title = 405, "method-not-allowed", "Method not allowed"


class RequestTimeout(Problem):
    """The client did not send its request in time. The connection ends with the answer."""

    status, slug, title = 408, "request-timeout", "Request timeout"


class UsernameTaken(Problem):
    """Another user has this name, perhaps in other case."""

    status, slug, title = 409, "username-taken", "Username taken"


class OwnAccess(Problem):
    """Admins cannot take their own access away: somebody else has to."""

    status, slug, title = 409, "own-access", "Own access"


class CurrencyExists(Problem):
    """There is a currency of this id already."""

    status, slug, title = 409, "currency-exists", "Currency exists"


class TooManyAccounts(Problem):
    """The user has as many accounts as one may have (APP_ACCOUNTS_PER_USER_MAX)."""

    status, slug, title = 409, "too-many-accounts", "Too many accounts"


class TooManyCurrencies(Problem):
    """There are as many currencies as a user may have accounts: whoever registers opens one in each."""

    status, slug, title = 409, "too-many-currencies", "Too many currencies"


class OrderRefused(Problem):
    """An order accepted without the database was refused when it was to be booked. Its key stays with it."""

    status, slug, title = 409, "order-refused", "Order refused"

    def __init__(self, order_id: UUID, user_id: int, reason: str) -> None:
        super().__init__(f"Order {order_id} was refused: {reason}")
        self._order = order_id, user_id, reason
        self.location = f"/users/{user_id}/orders/{order_id}"

    def __reduce__(self) -> tuple[type["OrderRefused"], tuple[UUID, int, str], dict[str, Any]]:
        """Copies are made by the constructor's own arguments."""
        return type(self), self._order, self.__dict__

    def members(self, instance: str | None, status: int | None = None) -> dict[str, str | int | None]:
        """Returns those of any problem, and the order with the reason why it was refused."""
        order_id, _, reason = self._order
        return {**super().members(instance, status), "order_id": str(order_id), "reason": reason}


class GroupRefused(Problem):
    """Another order was refused that was to be booked with this one or not at all. The detail names it, and why."""

    status, slug, title = 409, "group-refused", "Refused together"


class PayloadTooLarge(Problem):
    """The body is larger than the route accepts."""

    status, slug, title = 413, "payload-too-large", "Payload too large"


class UnsupportedMediaType(Problem):
    """The body is of a type that the route does not take, or not in UTF-8."""

    status, slug, title = 415, "unsupported-media-type", "Unsupported media type"


class IdempotencyKeyReused(Problem):
    """The key was used before with another content."""

    status, slug, title = 422, "idempotency-key-reused", "Idempotency-Key reused"

    def __init__(
        self, detail: str = "Idempotency-Key: was used before, with another content", *, field: str | None = None
    ) -> None:
        super().__init__(detail, field=field)


class RequestKeyReused(IdempotencyKeyReused):
    """The key of a whole bulk was used before with another content."""


class HeadTooLarge(Problem):
    """The request line and the headers are longer than is taken."""

    status, slug, title = 431, "head-too-large", "Request header fields too large"


class TooManyRequests(Problem):
    """The client is to wait; nothing was done. `retry_after_seconds` says for how long."""

    status, slug, title = 429, "too-many-requests", "Too many requests"
    retry_after_seconds = 1

    def __init__(self, detail: str, retry_after_seconds: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class AccessChanged(Problem):
    """The caller is not who they were when they were judged: another password, another role, deactivated.

    Nothing was done; they are judged anew, and hear of it only where that finds no end.
    """

    status, slug, title = 503, "access-changed", "Access changed"
    retry_after_seconds = 1

    def __init__(self, detail: str = "Your access was changed while this waited. Nothing was done; try again.") -> None:
        super().__init__(detail)


class Overloaded(Problem):
    """A bounded queue of ours is full. Nothing was done."""

    status, slug, title = 503, "overloaded", "Overloaded"
    retry_after_seconds = 1

    def __init__(self, detail: str, retry_after_seconds: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class DatabaseBusy(Problem):
    """The database is there but refused for now: deadlock, serialisation failure, lock timeout, cancelled statement.

    Nothing was booked; trying again is safe.
    """

    status, slug, title = 503, "database-busy", "Database busy"
    retry_after_seconds = 1
    # Whether it gave way to another transaction, which is about to be done; it is not kept out by one.
    is_conflict = False

    def __init__(self, detail: str = "The database is busy. Nothing was booked or changed; try again.") -> None:
        super().__init__(detail)

    def for_readers(self) -> Problem:
        """Returns what says that the database is busy, and no more."""
        return DatabaseBusy("The database is busy; try again.")


class DatabaseUnavailable(Problem):
    """Could not connect, or the connection was lost, or the deadline passed, before COMMIT was sent."""

    status, slug, title = 503, "database-unavailable", "Database unavailable"
    retry_after_seconds = 1
    # Whether its detail says what holds for reads, too.
    is_for_readers: ClassVar[bool] = False

    def for_readers(self) -> Problem:
        """Returns what says that the database is unavailable, and no more; or itself, where it says as much."""
        return self if self.is_for_readers else DatabaseUnavailable("The database is unavailable; try again.")


class DatabaseUnfit(DatabaseUnavailable):
    """A database answers, but our statements would not mean there what they say. Nothing was done in it.

    `reason` is one line that tells the operator what to do.
    """

    def __init__(self, detail: str, reason: str = "") -> None:
        super().__init__(detail)
        self.reason = reason


class CommitInDoubt(DatabaseUnavailable):
    """The answer to COMMIT is missing: the transaction may or may not be booked, even later."""

    slug, title = "commit-in-doubt", "Outcome unknown"


class OtherMoment(DatabaseUnavailable):
    """The database holds another moment than this node has left it in: it, or the node's directory, is an older one.

    `count` is the moment's number, None where there is none of this node.
    """

    slug, title = "other-moment", "Another moment of the database"

    def __init__(self, count: int | None) -> None:
        super().__init__("The database holds another moment than this node left it in. Nothing was booked.")
        self.count = count

    def __reduce__(self) -> tuple[type["OtherMoment"], tuple[int | None]]:
        """Copies are made by the constructor's own argument."""
        return type(self), (self.count,)


class DiskHangs(Problem):
    """The disk of this node does not answer: until it does, nothing is booked or changed here.

    Whether the database is there makes no difference.
    """

    status, slug, title = 503, "disk-hangs", "The node's disk does not answer"
    retry_after_seconds = 5

    def __init__(
        self, detail: str = "The disk of this node does not answer. Nothing was booked or changed; try again."
    ) -> None:
        super().__init__(detail)

    def for_readers(self) -> Problem:
        """Returns what says that the disk does not answer, and no more."""
        return DiskHangs("The disk of this node does not answer; try again.")


class NotKnownHere(DatabaseUnavailable):
    """The database is away, and this node does not remember enough to answer in its place. Never a guess."""

    slug, title = "not-known-here", "Not known without the database"
    is_for_readers = True


class StandInFenced(DatabaseUnavailable):
    """The database is away, and this node may not stand in for it; `/health` says why."""

    slug, title = "stand-in-fenced", "No stand-in"
    is_for_readers = True


class OfflineAmountCap(DatabaseUnavailable):
    """The order is above what may be accepted without the database (APP_OFFLINE_MAX_AMOUNT)."""

    slug, title = "offline-amount-cap", "Too large without the database"


class OfflineDebitCap(DatabaseUnavailable):
    """The account has spent what it may without the database (APP_OFFLINE_MAX_DEBIT)."""

    slug, title = "offline-debit-cap", "Account's limit without the database"


class OfflineOrdersCap(DatabaseUnavailable):
    """The journal holds as many orders as it may (APP_OFFLINE_MAX_ORDERS)."""

    slug, title = "offline-orders-cap", "Journal full"
    # It closes the node to all orders, which is what /health/ready is asked for.
    is_for_readers = True


class OfflineUserOrdersCap(DatabaseUnavailable):
    """The journal holds as many of the user's orders as one user may have there (a tenth of all that it may)."""

    slug, title = "offline-user-orders-cap", "Your part of the journal is full"


class OfflineDiskFloor(DatabaseUnavailable):
    """The node's disk has too little room for new orders (APP_OFFLINE_MIN_FREE_BYTES); what is left is for settling."""

    slug, title = "offline-disk-floor", "Too little room on the node's disk"
    is_for_readers = True
    # Somebody has to make room.
    retry_after_seconds = 60


class OfflineHoursCap(DatabaseUnavailable):
    """The database has been away for longer than payments may be accepted without it (APP_OFFLINE_MAX_HOURS)."""

    slug, title = "offline-hours-cap", "Too long without the database"
    is_for_readers = True
    # Nothing but the database ends it.
    retry_after_seconds = 60


class StatementRejected(InternalError):
    """The database rejected a statement of ours for a reason that trying again does not cure.

    `sqlstate` is PostgreSQL's five-character code.
    """

    def __init__(self, sqlstate: str) -> None:
        super().__init__()
        self.sqlstate = sqlstate

    def __reduce__(self) -> tuple[type["StatementRejected"], tuple[str]]:
        """Copies are made by the constructor's own argument."""
        return type(self), (self.sqlstate,)


class DuplicateOrder(StatementRejected):
    """Another transaction booked an order under the same id first; looking it up again tells."""
