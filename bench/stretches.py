"""The stretches of a round: each a few seconds of one kind of load."""

import time
from collections.abc import Callable

import msgspec

from bench import pgbench, wrk
from bench.site import Site

CONNECTIONS = 128
SETTLING_SECONDS = 300
# What a stretch left under way when it ended is over by then.
PAUSE_SECONDS = 0.5


class Figures(msgspec.Struct, frozen=True):
    """What a stretch measured: requests (or payments) per second, latencies, CPU seconds per 1000 of them.

    `service_cpu` is that of whichever program answered over HTTP. None: there is no such figure.
    """

    rate: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    service_cpu: float | None = None
    database_cpu: float | None = None


class Stretches:
    """Runs stretches on a site, by name. `take` is the only thing to call."""

    def __init__(self, site: Site, seconds: int) -> None:
        self._site = site
        self._seconds = seconds
        self._client_seed = 0

    def take(self, name: str) -> dict[str, Figures]:
        """Runs a stretch; returns its figures by name: mostly one, of the same name.

        Raises `BenchError` where an answer was not the expected one.
        """
        self._client_seed += 1
        time.sleep(PAUSE_SECONDS)
        figures = STRETCHES[name](self)
        return figures if isinstance(figures, dict) else {name: figures}

    def pgbench(self, clients: int) -> Figures:
        """The same payments in plain SQL."""
        self._checkpoint()
        before = self._site.database_cpu()
        payments = pgbench.pay(
            self._site.postgres.program("pgbench"),
            self._site.postgres.dsn,
            self._site.payment_variables(),
            clients=clients,
            seconds=self._seconds,
            seed=self._client_seed,
        )
        database_cpu = self._site.database_cpu() - before
        number = len(payments.latencies_ms)
        return Figures(
            payments.rate, payments.percentile(50), payments.percentile(99), None, 1000 * database_cpu / number
        )

    def transfers(self, connections: int) -> Figures:
        """Transfers, one a request."""
        self._checkpoint()
        return self._service("transfer", connections)

    def accounts(self) -> Figures:
        """Reads of an account."""
        return self._service("account", CONNECTIONS)

    def bare(self, kind: str, connections: int) -> Figures:
        """The same requests to bare aiohttp."""
        target = wrk.Target(self._site.bare_port, self._site.users_file, connections)
        before = self._site.bare_cpu()
        load = wrk.send(target, kind, self._seconds, self._client_seed)
        return _figures(load, self._site.bare_cpu() - before, None)

    def _service(self, kind: str, connections: int) -> Figures:
        target = wrk.Target(self._site.service_port, self._site.users_file, connections)
        before = self._site.service_cpu(), self._site.database_cpu()
        load = wrk.send(target, kind, self._seconds, self._client_seed)
        return _figures(load, self._site.service_cpu() - before[0], self._site.database_cpu() - before[1])

    def _checkpoint(self) -> None:
        """So that no stretch pays for the pages that another one made dirty."""
        self._site.query("CHECKPOINT", as_administrator=True)


def _figures(load: wrk.Load, service_cpu: float, database_cpu: float | None) -> Figures:
    thousands = load.requests / 1000
    return Figures(
        load.rate,
        load.p50_ms,
        load.p99_ms,
        service_cpu / thousands,
        None if database_cpu is None else database_cpu / thousands,
    )


Stretch = Callable[[Stretches], Figures | dict[str, Figures]]

# In the order of a round: what is compared stands side by side.
STRETCHES: dict[str, Stretch] = {
    "pgbench, 8 clients": lambda on: on.pgbench(8),
    "pgbench, 32 clients": lambda on: on.pgbench(32),
    "transfers": lambda on: on.transfers(CONNECTIONS),
    "bare POST": lambda on: on.bare("transfer", CONNECTIONS),
    "pgbench, 1 client": lambda on: on.pgbench(1),
    "transfers, 1 connection": lambda on: on.transfers(1),
    "bare POST, 1 connection": lambda on: on.bare("transfer", 1),
    "accounts": lambda on: on.accounts(),
    "bare GET": lambda on: on.bare("account", CONNECTIONS),
}
