"""The stretches of a round: each a few seconds of one kind of load."""

import time
from collections.abc import Callable, Mapping

import msgspec

from bench import pgbench, wrk
from bench.processes import cpu_seconds
from bench.service import Client, Program
from bench.site import Site
from bench.users import payment_variables

CONNECTIONS = 128
BULK_CONNECTIONS = 4
SETTLING_SECONDS = 300
WARM_UP_SECONDS = 2
# What a stretch left under way when it ended is over by then.
PAUSE_SECONDS = 1.0


class Figures(msgspec.Struct, frozen=True):
    """What a stretch measured: payments (or reads) per second, latencies of requests, CPU seconds per 1000 payments.

    `service_cpu` is that of whichever program answered over HTTP. None: there is no such figure.
    """

    rate: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    service_cpu: float | None = None
    database_cpu: float | None = None


def warm_up(site: Site) -> None:
    """Lets the programs come to speed, and PostgreSQL plan for tables that are not empty."""
    Stretches(site, WARM_UP_SECONDS).transfers(CONNECTIONS)
    site.analyse()


class Stretches:
    """Takes stretches on a site. Raises `BenchError` where an answer was not the expected one."""

    def __init__(self, site: Site, seconds: int) -> None:
        self._site = site
        self._seconds = seconds
        self._seed = 0

    def take(self, name: str) -> Mapping[str, Figures]:
        """Takes the stretch of this name; returns its figures by name, mostly one, of the same name."""
        self._seed += 1
        time.sleep(PAUSE_SECONDS)
        figures = STRETCHES[name](self)
        return figures if isinstance(figures, dict) else {name: figures}

    def pgbench(self, clients: int) -> Figures:
        """The same payments in plain SQL, straight to PostgreSQL."""
        postgres = self._site.postgres
        self._site.checkpoint()
        before = self._site.database_cpu()
        payments = pgbench.pay(
            postgres.program("pgbench"),
            postgres.dsn,
            payment_variables(self._site.users),
            clients=clients,
            seconds=self._seconds,
            seed=self._seed,
        )
        thousands = len(payments.latencies_ms) / 1000
        database_cpu = (self._site.database_cpu() - before) / thousands
        return Figures(payments.rate, payments.percentile(50), payments.percentile(99), None, database_cpu)

    def transfers(self, connections: int) -> Figures:
        """Transfers, one a request."""
        self._site.checkpoint()
        return self.load("transfer", connections)

    def bulk(self) -> Figures:
        """Transfers, a thousand a request."""
        self._site.checkpoint()
        return self.load("bulk", BULK_CONNECTIONS, payments_per_request=wrk.ITEMS_OF_A_BULK_REQUEST)

    def bare(self, kind: str, connections: int) -> Figures:
        """The same requests to bare aiohttp."""
        assert self._site.bare is not None
        return self.load(kind, connections, program=self._site.bare)

    def outage(self) -> dict[str, Figures]:
        """Transfers without the database; then, idle, their settling.

        What pgbench booked behind the service's back the stand-in does not know. Nobody's money runs out all the same.
        """
        self._site.postgres.stop()
        standing_in = self.load("transfer", CONNECTIONS, expected=202)
        client = Client(self._site.service.port)
        orders = client.ask("GET", "/health")["journal"]["pending"]
        self._site.postgres.start(for_operator=True)
        return {"stand-in": standing_in, "settling": self._settling(client, orders)}

    def load(
        self,
        kind: str,
        connections: int,
        *,
        expected: int = 200,
        program: Program | None = None,
        payments_per_request: int = 1,
    ) -> Figures:
        """Requests of one kind (see load.lua), to the service where no other program is named."""
        program = program or self._site.service
        target = wrk.Target(program.port, self._site.users_file, connections)
        before = cpu_seconds(program.pid), self._site.database_cpu()
        load = wrk.send(target, kind, self._seconds, self._seed, expected)
        thousands = load.requests * payments_per_request / 1000
        return Figures(
            load.rate * payments_per_request,
            load.p50_ms,
            load.p99_ms,
            (cpu_seconds(program.pid) - before[0]) / thousands,
            (self._site.database_cpu() - before[1]) / thousands if program is self._site.service else None,
        )

    def _settling(self, client: Client, orders: int) -> Figures:
        pid = self._site.service.pid
        started = client.wait_for_mode("settling", "online", patience_seconds=SETTLING_SECONDS)
        before = cpu_seconds(pid), self._site.database_cpu()
        ended = client.wait_for_mode("online", patience_seconds=SETTLING_SECONDS)
        return Figures(
            orders / (ended - started),
            service_cpu=1000 * (cpu_seconds(pid) - before[0]) / orders,
            database_cpu=1000 * (self._site.database_cpu() - before[1]) / orders,
        )


# In the order of a round: what is compared stands side by side.
STRETCHES: dict[str, Callable[[Stretches], Figures | dict[str, Figures]]] = {
    "pgbench, 8 clients": lambda on: on.pgbench(8),
    "pgbench, 32 clients": lambda on: on.pgbench(32),
    "bulk": lambda on: on.bulk(),
    "transfers": lambda on: on.transfers(CONNECTIONS),
    "bare POST": lambda on: on.bare("transfer", CONNECTIONS),
    "outage": lambda on: on.outage(),
    "transfers, 1 connection": lambda on: on.transfers(1),
    "pgbench, 1 client": lambda on: on.pgbench(1),
    "bare POST, 1 connection": lambda on: on.bare("transfer", 1),
    "accounts": lambda on: on.load("account", CONNECTIONS),
    "bare GET": lambda on: on.bare("account", CONNECTIONS),
}
