"""What users read of the service, of its parts, and of its problems. What they read of a route is beside it."""

from collections.abc import Mapping

from aiopypay import errors
from aiopypay.errors import Problem

DESCRIPTION = """\
Users, accounts and payments with commission. While its database is down the service keeps taking payments, refuses
those that are not covered, and books each accepted one exactly once when the database is back.

Requests may be forms (`multipart/form-data` with parts of text, too) or JSON. An optional field that is empty, or null
in JSON, counts as not sent. Amounts are decimals in the major unit of their currency; in requests they may be numbers
or strings of digits (`"10.50"`). With the header `Prefer: money=string` those in answers are strings, too.

A problem is `application/problem+json` (RFC 9457); programs should look at its `type`, which is stable. Any request may
also be answered 400 (not HTTP), 403 (`/problems/cross-site`: a page of another site asked for something other than to
read), 408 (a request that does not come in time; the connection is closed), 413 (too large), 417 (an `Expect` that
cannot be met) or 431 (request line and headers over 32 KiB).
"""

# The parts of the service, by the modules of their routes.
TAGS: Mapping[str, str] = {
    "accounts": "Accounts and their balances.",
    "administration": "Users, for admins.",
    "balances": "Deposits and withdrawals, and the balance in the base currency.",
    "bulk": "Many payments at once.",
    "currencies": "Currencies and their commission.",
    "documentation": "This document.",
    "me": "The user who asks.",
    "operation": "For those who run the service. They answer without a database.",
    "orders": "What has become of a payment, a deposit or a withdrawal.",
    "tokens": "Registration and tokens, as client-transactions-api has them.",
    "transfers": "Payments and their history.",
    "users": "Registration.",
}

MEANINGS: Mapping[type[Problem], str] = {
    errors.AccessChanged: "What you may do changed while the request came. Nothing was done; try again.",
    errors.CommitInDoubt: "The answer of the database is missing: it may be booked. Ask again with the same "
    "`Idempotency-Key`.",
    errors.CurrencyExists: "There is a currency with this id already.",
    errors.CurrencyMismatch: "`from` and `to` have different currencies, and nothing is converted.",
    errors.DatabaseBusy: "The database refused for now. Nothing was done; try again.",
    errors.DatabaseUnavailable: "The database is away. Nothing was done; try again.",
    errors.DiskHangs: "The disk of this node does not answer, and `detail` says what is known of the order. Ask again "
    "with the same `Idempotency-Key`.",
    errors.Forbidden: "You are known, but may not do this.",
    errors.IdempotencyKeyReused: "The `Idempotency-Key` was used before with another content.",
    errors.InsufficientFunds: "The account does not cover the amount and its commission. Nothing was booked.",
    errors.InternalError: "A defect of the service. Its log has the cause under the id of the request.",
    errors.InvalidRequest: "Something in the request is missing, repeated, unknown or malformed; `field` names it.",
    errors.NotAuthenticated: "There are no credentials, or they are not valid.",
    errors.NotFound: "There is nothing under this address.",
    errors.NotKnownHere: "The database is away, and this node does not know enough to answer in its place.",
    errors.OfflineAmountCap: "The database is away, and the amount is above what is accepted without it.",
    errors.OfflineDebitCap: "The database is away, and the account has spent what it may without it.",
    errors.OfflineDiskFloor: "The database is away, and this node has too little room to keep more orders.",
    errors.OfflineHoursCap: "The database has been away for longer than payments are accepted without it.",
    errors.OfflineOrdersCap: "The database is away, and as many orders wait for it as may.",
    errors.OfflineUserOrdersCap: "The database is away, and as many of your orders wait for it as may.",
    errors.OrderRefused: "The order of this `Idempotency-Key` was accepted without the database, and refused when it "
    "was to be booked; `reason` says why.",
    errors.Overloaded: "Too much is being asked of the service. Nothing was done; try again.",
    errors.OwnAccess: "Admins cannot take their own access away.",
    errors.PayloadTooLarge: "The body is larger than this route takes.",
    errors.RequestTimeout: "The body did not come in time.",
    errors.SameAccount: "`from` and `to` are the same account.",
    errors.StandInFenced: "The database is away, and this node may not answer in its place.",
    errors.TooManyAccounts: "You have as many accounts as one may have.",
    errors.TooManyCurrencies: "There are as many currencies as one may have accounts.",
    errors.TooManyRequests: "Too many requests. Nothing was done; `Retry-After` says when to try again.",
    errors.UnknownAccount: "There is no such account.",
    errors.UnknownCurrency: "There is no such currency.",
    errors.UnsupportedGrantType: "`grant_type` is not `password`.",
    errors.UnsupportedMediaType: "The body has a type that this route does not take, or is not UTF-8.",
    errors.UserDeactivated: "The credentials are right, but the user is deactivated.",
    errors.UsernameTaken: "Somebody has this name, perhaps in other case.",
    errors.WrongPassword: "`current_password` is not your password.",
}


def meaning_of(problem: type[Problem]) -> str:
    """Returns what users read of a problem."""
    return MEANINGS.get(problem, problem.title)
