"""`--full`: a database with a million accounts and ten million transfers against an empty one, and memory."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from aiopypay.embedded.roles import SERVICE
from bench import crowd, memory
from bench.books import check, query
from bench.progress import doing, done
from bench.report import Run
from bench.rounds import alternate
from bench.rows import Row, always, known, rates, result
from bench.service import Client, running_service
from bench.site import CREDIT, Site, running_postgres
from bench.stretches import CONNECTIONS, Figures, Stretches, warm_up
from bench.users import BenchUser, pay, write_users

REMEMBER_SECONDS = 3600
# So many payments of the busy user, that an empty database too has pages of a hundred transfers.
FIRST_PAYMENTS = 200

STRETCHES = ("transfers, full", "transfers, empty", "history, full", "history, empty")
MEMORY = "memory"
ROWS = (
    Row(
        "size",
        "transfers, full database : empty database",
        ("transfers, full", "transfers, empty"),
        rates("transfers, full", "transfers, empty"),
        always(0.9),
    ),
    Row(
        "history",
        "p50 of a page of history, full database : empty database",
        ("history, full", "history, empty"),
        lambda figures: known(figures["history, full"].p50_ms) / known(figures["history, empty"].p50_ms),
        always(1.2),
        at_least=False,
    ),
)
NAMES = (*(row.name for row in ROWS), MEMORY)

# Places in the first half of the busy user's history: behind each of them is more than a page.
SELECT_PLACES = """
SELECT unnest(percentile_disc(ARRAY[0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5]) WITHIN GROUP (ORDER BY id))
FROM transfers WHERE from_account_id = %(account_id)s OR to_account_id = %(account_id)s
"""


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is in the tables, and how many of the users pay."""

    users: int
    transfers: int
    payers: int


def size_of(accounts: int, transfers: int, payers: int) -> Size:
    """The size with so many accounts: the superuser's and everybody's, less than the service remembers at most."""
    return Size((accounts - 1) // crowd.ACCOUNTS_OF_A_USER - 1, transfers, payers)


def measure(names: Sequence[str], full: Size, rounds: int, seconds: int, load_seconds: int) -> Run:
    """Measures the rows of these names. Both databases run all the time; only one has something to do."""
    with running_crowd(Size(full.payers, 0, full.payers)) as empty_site, running_crowd(full) as full_site:
        idle, filled = memory.idle(empty_site), memory.idle(full_site)
        done(f"memory: idle {idle:.0f} MB, with every account remembered {filled:.0f} MB")
        for site in (empty_site, full_site):
            _log_in(site)
        run = _run({"empty": empty_site, "full": full_site}, names, rounds, seconds)
        if MEMORY in names:
            samples = memory.under_load(full_site, load_seconds)
            run.results += memory.results(idle, filled, samples)
            run.memory_mb = {"idle": [idle], "every account remembered": [filled], "under load": samples}
        for site in (empty_site, full_site):
            check(site.postgres.dsn)
    return run


@contextlib.contextmanager
def running_crowd(size: Size) -> Iterator[Site]:
    """A filled database and a service that has met no other, once it remembers every account."""
    with contextlib.ExitStack() as stack:
        directory, postgres = stack.enter_context(running_postgres())
        crowd.fill(postgres.owner_dsn, size.users, size.transfers, service_role=SERVICE)
        service = stack.enter_context(running_service(postgres.data_dir, CREDIT))
        doing(f"the service remembers {size.users} users, their accounts and orders")
        Client(service.port).wait_until_filled(REMEMBER_SECONDS)
        payers = crowd.holders(size.users, size.payers)
        yield Site(postgres, service, payers, write_users(directory / "users", payers))


def _log_in(site: Site) -> None:
    """Lets the service verify everybody's password once: it remembers that for five minutes."""
    client = Client(site.service.port)
    for user in site.users:
        client.ask("GET", f"/accounts/{user.account_id}", authorization=user.authorization)


def _run(sites: Mapping[str, Site], names: Sequence[str], rounds: int, seconds: int) -> Run:
    rows = [row for row in ROWS if row.name in names]
    if not rows:
        return Run([], [])
    transfers = {name: Stretches(site, seconds) for name, site in sites.items()}
    histories = {name: Stretches(_with_pages(site), seconds) for name, site in sites.items()}

    def take(stretch: str) -> Mapping[str, Figures]:
        kind, _, name = stretch.partition(", ")
        if kind == "transfers":
            return {stretch: transfers[name].transfers(CONNECTIONS)}
        return {stretch: histories[name].load("history", 1)}

    for site in sites.values():
        warm_up(site)
    needed = {stretch for row in rows for stretch in row.stretches}
    taken = alternate([name for name in STRETCHES if name in needed], rounds, take)
    return Run(taken, [result(row, taken) for row in rows])


def _with_pages(site: Site) -> Site:
    """The site with a file of pages in place of users: the first page of the busy user's history, and later ones."""
    busy, other = site.users[:2]
    client = Client(site.service.port)
    for _ in range(FIRST_PAYMENTS):
        pay(client, busy, other)
    places = [place for (place,) in query(site.postgres.dsn, SELECT_PLACES, {"account_id": busy.account_id})]
    pages = [BenchUser(busy.id, after, busy.authorization) for after in (0, *places)]
    return replace(site, users_file=write_users(site.users_file.with_name("pages"), pages))
