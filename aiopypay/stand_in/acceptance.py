"""Accepting orders without the database: the same rule, on the balances last known and what was accepted since.

An order under a key of which the node cannot tell whether it was used (`_may_be_old`: not all keys are remembered, or
other nodes book too) may have been booked before: it is *held*. All that is told, by answers and reads alike, follows
one order of events: the journal's, in which each order is a new one in its place. Where settling finds one that was
booked before, this was not so: what is told loses it then, and its own outcome is the earlier one. Nobody has spent or
missed anything by it meanwhile: what a held order brings covers nothing before it is settled, and nobody is refused for
what it takes. A payment on which that decides is 503.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from msgspec.structs import replace

from aiopypay import errors, money
from aiopypay.ledger import Account, TransferOrder
from aiopypay.planning import PlannedOrder, Unsure, plan_batch, refused_groups
from aiopypay.settings import OfflineSettings
from aiopypay.stand_in.caps import Caps
from aiopypay.stand_in.identity import identified
from aiopypay.stand_in.known_orders import ORDERS_TRIMMED
from aiopypay.stand_in.records import Entry, JournalEntry, KnownAccount
from aiopypay.stand_in.store import Store
from aiopypay.store.orders import OrderRecord
from aiopypay.units import RequestKey, places_of_bulks

Answer = OrderRecord | Entry | errors.Problem

SECONDS_DOWN = "seconds_down"
KEYS_COMPLETE = "keys_complete"


def accept(
    store: Store,
    orders: Sequence[TransferOrder],
    limits: OfflineSettings,
    now: datetime,
    seconds_down: float,
    *,
    is_alone: bool,
) -> list[Answer]:
    """Returns one answer an order, in order. What is accepted is in the journal, on disk, when this returns.

    The ids of `orders` differ. `is_alone`: no other node can have booked what this one has not seen. Raises
    StoreFailed: then nothing of them is on disk.
    """
    with store.transaction(durable=True):
        store.set_setting(SECONDS_DOWN, str(seconds_down))
        answers = _seen(store, orders)
        fresh = [order for order in orders if order.id not in answers]
        complete = is_alone and store.setting(KEYS_COMPLETE) == "yes" and store.setting(ORDERS_TRIMMED) != "yes"
        caps = Caps(
            limits,
            seconds_down,
            pending=store.pending_count(),
            pending_of=store.pending_of,
            free_bytes=store.free_bytes(),
        )
        planned = _plan(store, fresh, caps, complete, refused_groups(orders, answers))
        entries = [
            entry_of(plan, now, held=_may_be_old(plan.order, complete))
            for plan in planned
            if isinstance(plan, PlannedOrder)
        ]
        entries = identified(store, entries)
        store.append(entries)
    accepted = iter(entries)
    for order, plan in zip(fresh, planned, strict=True):
        answers[order.id] = plan if isinstance(plan, errors.Problem) else next(accepted)
    return [answers[order.id] for order in orders]


def reused_keys(store: Store, keys: Sequence[RequestKey]) -> set[int]:
    """Returns the places of the keys under which an order was booked or accepted as part of another content."""
    return {place for place, key in enumerate(keys) if any(seen != key.fingerprint for seen in _contents(store, key))}


def _contents(store: Store, key: RequestKey) -> Iterator[bytes]:
    ranges = [(key.lowest, key.highest)] if key.is_a_transfers else [(key.lowest, key.highest), (key.id, key.id)]
    for lowest, highest in ranges:
        yield from _between(store, lowest, highest)


def _between(store: Store, lowest: UUID, highest: UUID) -> Iterator[bytes]:
    yield from (record.fingerprint for record in store.orders_between(lowest, highest))
    yield from (entry.entry.order.fingerprint for entry in store.entries_between(lowest, highest))


def entry_of(plan: PlannedOrder, now: datetime, *, in_doubt: bool = False, held: bool = False) -> Entry:
    """Returns the journal's entry of a planned order, with the moment and the commission rate of its acceptance."""
    order = replace(plan.order, accepted_at=now, commission_rate=plan.commission_rate)
    return Entry(order, plan.transfers, plan.balance, plan.decimals, in_doubt, held)


def answer_of(entry: JournalEntry) -> Entry:
    """Returns the entry as the answer to a retry. Raises OrderRefused where it was refused at settling."""
    if entry.state in ("refused", "unplaced"):
        raise errors.OrderRefused(entry.entry.order.id, entry.entry.order.user_id, entry.reason or "")
    return entry.entry


def _seen(store: Store, orders: Sequence[TransferOrder]) -> dict[UUID, Answer]:
    """Returns the answers to those of the orders that were booked or accepted before, or whose key was a bulk's."""
    ids = [order.id for order in orders]
    booked, accepted, places = store.orders(ids), store.entries_of(ids), places_of_bulks(orders)
    answers: dict[UUID, Answer] = {}
    for order in orders:
        try:
            if order.id in booked:
                answers[order.id] = booked[order.id].answers(order.fingerprint)
            elif order.id in accepted:
                answers[order.id] = _accepted(accepted[order.id], order)
            elif order.id in places and any(
                content != order.fingerprint for content in _between(store, *places[order.id])
            ):
                raise errors.IdempotencyKeyReused
        except errors.Problem as problem:
            answers[order.id] = problem
    return answers


def _accepted(entry: JournalEntry, order: TransferOrder) -> Entry:
    if entry.entry.order.fingerprint != order.fingerprint:
        raise errors.IdempotencyKeyReused
    return answer_of(entry)


def _plan(
    store: Store,
    orders: Sequence[TransferOrder],
    caps: Caps,
    complete: bool,
    refused: Mapping[UUID, errors.GroupRefused],
) -> list[PlannedOrder | errors.Problem]:
    ids = {account_id for order in orders for account_id in order.account_ids}
    known = _certain(store, store.accounts(ids))
    with money.exact():
        accounts = {
            account.id: Account(
                account.id, account.user_id, account.currency_id, account.amount + account.pending - account.held_credit
            )
            for account in known.values()
            if account.user_id is not None
        }
    unsure = {
        account.id: Unsure(account.held_credit, account.held_debit)
        for account in known.values()
        if account.held_credit or account.held_debit
    }
    currencies = {currency.id: currency for currency in store.currencies()}
    caps.debits = {account.id: account.debit for account in known.values()}
    planned = plan_batch(
        orders, accounts, currencies, caps, lambda order: _may_be_old(order, complete), unsure=unsure, refused=refused
    )
    old_groups = {order.group for order in orders if order.group is not None and _may_be_old(order, complete)}
    return [
        _never_a_guess(plan, order, accounts, _may_be_old(order, complete) or order.group in old_groups)
        if isinstance(plan, errors.Problem)
        else plan
        for order, plan in zip(orders, planned, strict=True)
    ]


def _certain(store: Store, accounts: dict[int, KnownAccount]) -> dict[int, KnownAccount]:
    """Returns those of the accounts that nobody is known to have changed since; none where currencies were."""
    changed = store.changed_accounts(accounts)
    if store.has_changed("currencies"):
        return {}
    return {account_id: account for account_id, account in accounts.items() if account_id not in changed}


def _may_be_old(order: TransferOrder, complete: bool) -> bool:
    """Tells whether an order not seen here may have been booked before: it bears a key, and not all keys are known."""
    return order.idempotency_key is not None and not complete


def _never_a_guess(
    refusal: errors.Problem, order: TransferOrder, accounts: Mapping[int, Account], may_be_old: bool
) -> errors.Problem:
    """Returns the refusal, or 503 where the node cannot tell that it is right.

    `may_be_old`: the order, or another of its group, may have been booked before.
    """
    if isinstance(refusal, errors.GroupRefused):
        return refusal
    if any(account_id not in accounts for account_id in order.account_ids):
        return errors.NotKnownHere("The database is away, and this node does not know one of the accounts as it is.")
    if refusal.status < 500 and may_be_old:
        return errors.NotKnownHere(
            "The database is away, and this node cannot tell whether the Idempotency-Key was used before."
        )
    if isinstance(refusal, errors.InsufficientFunds):
        return errors.InsufficientFunds(refusal.detail, balance=refusal.balance, is_offline=True)
    return refusal
