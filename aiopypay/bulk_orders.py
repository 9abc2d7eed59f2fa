"""The orders of a bulk: under which ids they are placed, and how each one's answer finds its way back.

A transfer with a key of its own makes the order that it would make alone under this Idempotency-Key. One without makes
an order under a key derived from that of the whole request and its place: behind the first there is a space in it, so
that no client can have sent it. Its fingerprint is the whole request's: another content under the request's key shows
in any order.
"""

import copy
from collections.abc import Sequence
from uuid import UUID

from aiopypay.bulk_bodies import Bulk
from aiopypay.errors import (
    GroupRefused,
    IdempotencyKeyReused,
    InvalidRequest,
    NotKnownHere,
    OfflineAmountCap,
    OfflineDebitCap,
    Problem,
    RequestKeyReused,
)
from aiopypay.idempotency import digest, ids_of_places, order_id, plain
from aiopypay.ledger import TransferOrder
from aiopypay.random_ids import uuid7
from aiopypay.slices import Slices
from aiopypay.stand_in.acceptance import Answer
from aiopypay.transfer_orders import NO_CONTENT, BulkTransferForm, content_of, order_of
from aiopypay.units import Authority, RequestKey, Unit

# Without the database: what is about a transfer and its accounts, however many of a bulk have it.
_OF_A_TRANSFER = (NotKnownHere, OfflineAmountCap, OfflineDebitCap)


Placed = Sequence[BulkTransferForm | Problem]


async def unit_of(
    bulk: Bulk,
    placed: Placed,
    user_id: int,
    key: str | None,
    slices: Slices,
    *,
    authority: Authority | None = None,
) -> Unit:
    """Returns the orders of what is `placed`. `key` is the Idempotency-Key of the request.

    Raises, where all are to be booked or nothing, the problem of the first that cannot be.
    """
    if bulk.mode == "all":
        _check_all(bulk, placed)
    placing = await slices.do(lambda: _Placing(bulk, user_id, key))
    forms = [(form, place) for place, form in enumerate(placed) if not isinstance(form, Problem)]
    return Unit(await slices.map(lambda form: placing.order(*form), forms), placing.request_key, authority)


def answers_of(bulk: Bulk, placed: Placed, answers: Sequence[Answer]) -> list[Answer]:
    """Returns the answers by transfer; `answers` are those of the orders of what is `placed`.

    Raises the problem that is everybody's: that of the request's key; where all are to be booked or nothing, that of
    the transfer that was refused; and what kept the service from booking anything.
    """
    if answers and isinstance(answers[0], RequestKeyReused):
        raise answers[0]
    if bulk.mode == "all":
        _raise_culprits(bulk, answers)
    if len(answers) == len(bulk.transfers):
        _raise_common(answers)
    of_orders = iter(answers)
    return [
        _told(bulk, place, form if isinstance(form, Problem) else next(of_orders)) for place, form in enumerate(placed)
    ]


async def placed_of(bulk: Bulk, slices: Slices) -> Placed:
    """Returns the transfers, and in place of each of which no order is placed its problem.

    Of two contents under one key only the first is placed: each further one would need a transaction of its own.
    """
    contents: dict[str, bytes] = {}

    def place(form: BulkTransferForm | InvalidRequest) -> BulkTransferForm | Problem:
        if isinstance(form, InvalidRequest) or form.key is None:
            return form
        content = content_of(form)
        if contents.setdefault(form.key, content) == content:
            return form
        return IdempotencyKeyReused("key: stands above with another content", field="key")

    return await slices.map(place, bulk.transfers)


def _check_all(bulk: Bulk, placed: Placed) -> None:
    for place, form in enumerate(placed):
        if isinstance(form, Problem):
            raise _located(bulk, place, form)


def _request_key(bulk: Bulk, user_id: int, key: str) -> RequestKey:
    ids = ids_of_places(user_id, key)
    return RequestKey(order_id(user_id, key), *ids, _content_of_all(bulk), is_a_transfers=bulk.has_key(key))


class _Placing:
    """Under which ids, and with which group, the transfers of one bulk are placed."""

    def __init__(self, bulk: Bulk, user_id: int, key: str | None) -> None:
        self._user_id = user_id
        self._key = key
        self._places = bulk.places
        self._group = uuid7() if bulk.mode == "all" else None
        self.request_key = None if key is None else _request_key(bulk, user_id, key)

    def order(self, form: BulkTransferForm, place: int) -> TransferOrder:
        """Returns the order of the transfer that stands in this place."""
        user_id, key, content = self._user_id, form.key, NO_CONTENT
        if key is not None:
            identity, content = order_id(user_id, key), content_of(form)
        elif self.request_key is None:
            identity = uuid7()
        else:
            content, place = self.request_key.fingerprint, self._places[place]
            if place == 0 and not self.request_key.is_a_transfers:
                # So that the key is found used by whoever sends it again with a transfer alone.
                identity, key = self.request_key.id, self._key
            else:
                identity, key = UUID(int=self.request_key.lowest.int | place), f"{self._key} {place}"
        return order_of(form, user_id, order_id=identity, content=content, key=key, group=self._group)


def _content_of_all(bulk: Bulk) -> bytes:
    forms = [
        None if form is None else [form.from_account_id, form.to_account_id, plain(form.amount), form.comment, form.key]
        for form in bulk.contents
    ]
    # What is known by its text alone.
    text = bulk.text if None in forms else None
    return digest(["POST /users/{user_id}/transfers/bulk", bulk.mode, forms, text])


def _raise_culprits(bulk: Bulk, answers: Sequence[Answer]) -> None:
    problems = [(place, answer) for place, answer in enumerate(answers) if isinstance(answer, Problem)]
    for place, problem in problems:
        if problem.status < 500 and not isinstance(problem, GroupRefused):
            raise _located(bulk, place, _own(bulk, place, problem))
    is_refused = any(isinstance(problem, GroupRefused) for _, problem in problems)
    for place, problem in problems:
        if not isinstance(problem, GroupRefused):
            raise _located(bulk, place, problem) if is_refused else problem


def _raise_common(answers: Sequence[Answer]) -> None:
    first = answers[0] if answers else None
    if not isinstance(first, Problem) or first.status != 503 or isinstance(first, _OF_A_TRANSFER):
        return
    if {type(answer) for answer in answers} == {type(first)}:
        raise first


def _told(bulk: Bulk, place: int, answer: Answer) -> Answer:
    if not isinstance(answer, Problem):
        return answer
    problem = _own(bulk, place, answer)
    return _with(problem, f"line {bulk.lines[place]}: {problem.detail}", problem.field) if bulk.lines else problem


def _own(bulk: Bulk, place: int, problem: Problem) -> Problem:
    """Returns the problem under the names of a transfer in a bulk."""
    form = bulk.transfers[place]
    if isinstance(problem, IdempotencyKeyReused) and isinstance(form, BulkTransferForm) and form.key is not None:
        return IdempotencyKeyReused("key: was used before, with another content", field="key")
    return problem


def _located(bulk: Bulk, place: int, problem: Problem) -> Problem:
    """Returns the problem of the whole bulk that a transfer is the cause of: it names the transfer."""
    if bulk.lines:
        told = _with(problem, f"line {bulk.lines[place]}: {problem.detail}", problem.field)
    elif problem.field is None:
        told = _with(problem, f"transfers[{place}]: {problem.detail}", f"transfers[{place}]")
    else:
        told = _with(problem, f"transfers[{place}].{problem.detail}", f"transfers[{place}].{problem.field}")
    told.index = place
    return told


def _with(problem: Problem, detail: str, field: str | None) -> Problem:
    problem = copy.copy(problem)
    problem.detail, problem.field = detail, field
    return problem
