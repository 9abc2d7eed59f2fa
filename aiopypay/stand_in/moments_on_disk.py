"""What a node keeps on disk of moments: those it knows, and why nothing goes on. In the store's thread."""

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from aiopypay.stand_in.store import Store
from aiopypay.store.moments import Moment

MOMENTS = "moments"
BLOCKED = "blocked"
VERBS = (
    "Nothing is booked, accepted or told until you decide. To book again what this node knows and the database lacks: "
    "python -m aiopypay journal replay (with --dry-run, to see what that would be). To take the database as it is: "
    "python -m aiopypay journal trust"
)

# To book again what the database lacks, or to take it as it is.
Decision = Literal["replay", "trust"]


class KnownMoments(msgspec.Struct):
    """What is on disk: the moment of the last COMMIT that was answered, later ones, and the highest count of all."""

    known: Moment | None = None
    doubts: list[Moment] = []
    highest: int = 0


class Blocked(msgspec.Struct, frozen=True):
    """Why nothing goes on, and what the operator has decided, which has not come to its end.

    Where the directory is the older one, plans in it are looked up and never booked.
    """

    reason: str
    is_directory: bool = False
    decision: Decision | None = None
    is_final: bool = True

    @property
    def told(self) -> str:
        """The reason, and how to go on: for the operator."""
        return f"{self.reason}. {VERBS}"


def note_moments(store: Store, moments: Iterable[Moment]) -> None:
    """Keeps, within a transaction of the store, moments that the database may hold."""
    on_disk = _read(store)
    on_disk.doubts += moments
    _write(store, on_disk)


def record_moment(store: Store, moment: Moment) -> None:
    """Keeps, within a transaction of the store, that this moment's COMMIT was answered."""
    on_disk = _read(store)
    if on_disk.known is None or on_disk.known.count < moment.count:
        on_disk.known = moment
        on_disk.doubts = [doubt for doubt in on_disk.doubts if doubt.count > moment.count]
        _write(store, on_disk)


def write_blocked(store: Store, blocked: Blocked | None) -> None:
    """Keeps why nothing goes on, or that it does."""
    with store.transaction(durable=True):
        _write_blocked(store, blocked)


def recall(store: Store) -> tuple[KnownMoments, Blocked | None]:
    """Returns what an earlier run knew."""
    blocked = store.setting(BLOCKED)
    return _read(store), msgspec.json.decode(blocked, type=Blocked) if blocked else None


def adopt(store: Store, adopted: KnownMoments, blocked: Blocked) -> None:
    """Keeps what the operator has decided, and the moments that are known from now on."""
    with store.transaction(durable=True):
        _write(store, adopted)
        _write_blocked(store, blocked)


def note(store: Store, doubts: list[Moment], also: Callable[[Store], None] | None) -> None:
    """Keeps, synced, moments that the database may hold from now on, and does something `also` with it."""
    with store.transaction(durable=True):
        on_disk = _read(store)
        on_disk.doubts = doubts
        _write(store, on_disk)
        if also is not None:
            also(store)


def keep(store: Store, known: KnownMoments) -> None:
    """Keeps, synced, all that is known: a disk that was full may not have taken the last of it."""
    with store.transaction(durable=True):
        _write(store, known)


def record_answer(store: Store, moment: Moment) -> None:
    """Keeps that this moment's COMMIT was answered, soon: until then it is in doubt."""
    with store.transaction(durable=False):
        record_moment(store, moment)


def _read(store: Store) -> KnownMoments:
    text = store.setting(MOMENTS)
    return msgspec.json.decode(text, type=KnownMoments) if text else KnownMoments()


def _write(store: Store, on_disk: KnownMoments) -> None:
    counts = [moment.count for moment in [*filter(None, [on_disk.known]), *on_disk.doubts]]
    on_disk.highest = max(on_disk.highest, *counts, 0)
    store.set_setting(MOMENTS, msgspec.json.encode(on_disk).decode())


def _write_blocked(store: Store, blocked: Blocked | None) -> None:
    store.set_setting(BLOCKED, "" if blocked is None else msgspec.json.encode(blocked).decode())
