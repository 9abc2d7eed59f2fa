"""Which connections may be open: so many in all, so many from an address, none that only waits at others' expense.

Where there is no room, those make it that are about nothing: they have not sent a request yet, or wait between two.
Of these the longest waiting go first, and before them those of whoever has the most. So a flood of them keeps nobody
out, from its own address neither. Only where all are busy is a connection refused.
"""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

from aiopypay.client_address import is_within, network_of
from aiopypay.settings import Network

CONNECTIONS_MAX = 2_000
# An office, or a proxy that is not among the trusted ones, is one address.
CONNECTIONS_MAX_BY_ADDRESS = 500
LOOK_SECONDS = 1.0
# Room is made for several at once: a look at all of them is not for each.
ROOM = 16
TELL_SECONDS = 60.0
WHYS = ("refused", "displaced", "head_bytes", "head_seconds", "answer")

logger = logging.getLogger(__name__)


class Connection(Protocol):
    """What is known of a connection. Times are the event loop's."""

    @property
    def idle_since(self) -> float | None:
        """Since when it waits for a request, None while there is one, or an answer is not yet taken."""

    @property
    def has_been_served(self) -> bool:
        """Whether there was a request on it."""

    def end_where_overdue(self, now: float) -> str | None:
        """Ends it where the client keeps the service waiting for too long; says in one word with what."""

    def cut(self) -> None:
        """Ends it at once, whatever is under way."""


class Connections:
    """The open connections of one server, by network of the client.

    `ended` counts those that the service has refused or ended itself, by why: `refused` (nobody made room), `displaced`
    (made room), `head_bytes` and `head_seconds` (its request's head was too long, or too long in coming), `answer` (was
    not taken). `times_out_of_files` counts the times that the system let us open no more.
    """

    def __init__(self, trusted_proxies: Sequence[Network] = (), most: int = CONNECTIONS_MAX) -> None:
        """`trusted_proxies` are many clients each, so only `most`, of all, is their limit."""
        self.ended = Counter(dict.fromkeys(WHYS, 0))
        self.times_out_of_files = 0
        self._trusted_proxies = tuple(trusted_proxies)
        self._most = most
        self._most_by_address = min(CONNECTIONS_MAX_BY_ADDRESS, most)
        # As dictionaries, whose order is that of arrival.
        self._open: dict[Connection, str] = {}
        self._by_network: defaultdict[str, dict[Connection, None]] = defaultdict(dict)
        # Where nobody could make room, nobody is asked again before the next look at all.
        self._busy: set[str] = set()
        self._next_look: asyncio.TimerHandle | None = None
        self._tell_after = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def admits(self, address: str) -> bool:
        """Whether one more from this address may be opened; makes room for it where it must."""
        siblings = self._by_network.get(network_of(address), {})
        is_one = len(siblings) >= self._most_by_address and not is_within(address, self._trusted_proxies)
        if is_one and not self._make_room(siblings, network_of(address)):
            return self._refuse()
        if len(self._open) >= self._most and not self._make_room(self._open, "all"):
            return self._refuse()
        return True

    def add(self, connection: Connection, address: str) -> None:
        """From now on it counts, until it is removed."""
        network = network_of(address)
        self._open[connection] = network
        self._by_network[network][connection] = None
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def remove(self, connection: Connection) -> None:
        """It is closed. One that does not count any more is no error."""
        network = self._open.pop(connection, None)
        if network is not None:
            siblings = self._by_network[network]
            del siblings[connection]
            if not siblings:
                del self._by_network[network]

    def out_of_files(self) -> None:
        """The system lets us open no more: what can be closed is."""
        self.times_out_of_files += 1
        self._make_room(self._open, "all")
        self._tell("as many files are open as the system allows")

    def stop(self) -> None:
        """No more looks."""
        if self._next_look is not None:
            self._next_look.cancel()

    def _refuse(self) -> bool:
        self.ended["refused"] += 1
        self._tell("as many are open as may be, and all are busy")
        return False

    def _make_room(self, among: Mapping[Connection, object], name: str) -> bool:
        """Ends some that are about nothing; tells whether there were any."""
        if name in self._busy:
            return False
        idle = [(self._precedence(one, since), one) for one in among if (since := one.idle_since) is not None]
        idle.sort(key=lambda ranked: ranked[0])
        for _, one in idle[: max(1, len(among) // ROOM)]:
            self._end(one, "displaced")
        if not idle:
            self._busy.add(name)
        return bool(idle)

    def _precedence(self, connection: Connection, idle_since: float) -> tuple[int, bool, float]:
        return -len(self._by_network[self._open[connection]]), connection.has_been_served, idle_since

    def _end(self, connection: Connection, why: str) -> None:
        self.ended[why] += 1
        self.remove(connection)
        connection.cut()

    def _look(self) -> None:
        """At all of them, instead of a timer for each, which each request would have to set."""
        loop = asyncio.get_running_loop()
        self._busy.clear()
        now = loop.time()
        for one in list(self._open):
            if (why := one.end_where_overdue(now)) is not None:
                self.ended[why] += 1
        self._next_look = loop.call_later(LOOK_SECONDS, self._look) if self._open else None

    def _tell(self, why: str) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._tell_after:
            self._tell_after = now + TELL_SECONDS
            logger.warning("Connections are refused: %s (/metrics counts them).", why)
