"""Faults at random moments under load: what was acknowledged is booked, once, in its order, and never refused later.

One round of each by default; `--outage-rounds N` runs as many as one likes, `--outage-seed N` repeats a run's draws.
"""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .conftest import ROUNDS
from .disasters import disasters
from .postgres import PostgresServer
from .proxy import DIRECTIONS, Cut, Proxy
from .rounds import LARGE_BULKS, NOT_YET, Fault, Rounds
from .service import NewService
from .waiting import Stopwatch, eventually

Report = Callable[[str], None]
# In a long run some freezes are as long as an operator's coffee.
LONG_FREEZE_SECONDS, LONG_FREEZES = 20, 0.1
# In bytes: what books some hundred payments together.
LARGE_BOOKING = 50_000
FLAP_SECONDS, LONG_FLAP_SECONDS = 4, 20


class _Taken:
    """The database taken away and brought back, and the service killed and started, in the ways of these tests."""

    def __init__(self, postgres: PostgresServer, course: Rounds) -> None:
        self._postgres = postgres
        self._course = course

    async def stop(self, generator: random.Random) -> None:
        """Stops PostgreSQL in one of three ways; returns when it is gone."""
        ways = [self._postgres.kill, self._postgres.stop, lambda: self._postgres.stop("immediate")]
        await asyncio.to_thread(generator.choice(ways))

    async def start(self) -> None:
        """Starts PostgreSQL; returns when it accepts connections."""
        await asyncio.to_thread(self._postgres.start)

    async def restart_service(self) -> None:
        """kill -9 of the service, and its next start."""
        self._course.service.kill()
        await self._course.start_service()

    async def journal_grows(self) -> None:
        """Waits until payments have been accepted without the database, from now on."""
        seen: list[int] = []

        def grows(health: dict[str, Any]) -> bool:
            if health["mode"] == "stand-in":
                seen.append(health["journal"]["pending"])
            return bool(seen) and seen[-1] > seen[0]

        await self._course.service.wait_health(grows, "the journal grows")


async def test_kill_9_of_the_service_in_all_modes(
    empty_postgres: PostgresServer, new_service: NewService, rounds: int, seed: int, report: Report
) -> None:
    course = Rounds(empty_postgres, lambda: new_service(empty_postgres.dsn), seed, report)
    taken = _Taken(empty_postgres, course)

    async def kill_while_it_stands_in(generator: random.Random) -> None:
        await taken.stop(generator)
        for _ in range(generator.randint(1, 2)):
            await taken.journal_grows()
            await asyncio.sleep(generator.uniform(0, 0.5))
            await taken.restart_service()
        await taken.journal_grows()
        await taken.start()

    async def kill_while_it_settles(generator: random.Random) -> None:
        await taken.stop(generator)
        await taken.journal_grows()
        await asyncio.sleep(generator.uniform(0.2, 1))
        await taken.start()
        for _ in range(generator.randint(1, 3)):
            if generator.random() < 0.7:
                await _settling_or_online(course)
            await asyncio.sleep(generator.uniform(0, 0.3))
            await taken.restart_service()

    async def kill_online(_generator: random.Random) -> None:
        await taken.restart_service()

    async def kill_it_as_the_database_goes(generator: random.Random) -> None:
        going = asyncio.create_task(taken.stop(generator))
        await asyncio.sleep(generator.uniform(0, 0.3))
        await taken.restart_service()
        await going
        await taken.journal_grows()
        await taken.start()

    faults = [kill_while_it_settles, kill_while_it_stands_in, kill_online, kill_it_as_the_database_goes]
    await course.run("kill -9 of the service", rounds, faults)


async def _settling_or_online(course: Rounds) -> None:
    await course.service.wait_health(lambda health: health["mode"] != "stand-in", "the database is back")


async def test_kill_9_of_postgresql_and_of_both(
    empty_postgres: PostgresServer, new_service: NewService, rounds: int, seed: int, report: Report
) -> None:
    postgres = empty_postgres
    course = Rounds(postgres, lambda: new_service(postgres.dsn), seed, report)
    taken = _Taken(postgres, course)

    async def kill_both(generator: random.Random) -> None:
        kills = [course.service.kill, postgres.kill]
        generator.shuffle(kills)
        for kill in kills:
            await asyncio.to_thread(kill)
        starts = [taken.start, course.start_service]
        generator.shuffle(starts)
        for start in starts:
            await start()
            await asyncio.sleep(generator.uniform(0, 0.5))

    async def kill_postgresql(generator: random.Random) -> None:
        await asyncio.to_thread(postgres.kill)
        await asyncio.sleep(generator.uniform(0, 1))
        await taken.start()

    async def kill_a_backend(generator: random.Random) -> None:
        # PostgreSQL then ends all other sessions too, and recovers.
        postgres.kill_backend(generator.choice(await asyncio.to_thread(postgres.backends)))

    async def kill_postgresql_at_once_again(generator: random.Random) -> None:
        for _ in range(3):
            await asyncio.to_thread(postgres.kill)
            await taken.start()
            await asyncio.sleep(generator.uniform(0, 0.7))

    faults = [kill_both, kill_postgresql, kill_a_backend, kill_postgresql_at_once_again]
    await course.run("kill -9 of PostgreSQL and of both", rounds, faults)


async def test_stops_and_freezes_of_postgresql(
    empty_postgres: PostgresServer, new_service: NewService, rounds: int, seed: int, report: Report
) -> None:
    postgres = empty_postgres
    course = Rounds(postgres, lambda: new_service(postgres.dsn), seed, report)
    taken = _Taken(postgres, course)

    async def freeze(generator: random.Random) -> None:
        # Longer than the service waits: what was on its way is executed after the service has given up.
        with _thawed_in_the_end(postgres):
            await asyncio.to_thread(postgres.freeze)
            await asyncio.sleep(_freeze_seconds(generator, rounds))

    async def freeze_and_kill_the_service(generator: random.Random) -> None:
        with _thawed_in_the_end(postgres):
            await asyncio.to_thread(postgres.freeze)
            await asyncio.sleep(generator.uniform(0, 2))
            await taken.restart_service()
            await taken.journal_grows()

    async def stop_fast(generator: random.Random) -> None:
        await asyncio.to_thread(postgres.stop, "fast")
        await asyncio.sleep(generator.uniform(0, 1))
        await taken.start()

    async def stop_immediately(generator: random.Random) -> None:
        await asyncio.to_thread(postgres.stop, "immediate")
        await asyncio.sleep(generator.uniform(0, 1))
        await taken.start()

    async def terminate_backends(_generator: random.Random) -> None:
        await asyncio.to_thread(postgres.terminate_backends)

    async def freeze_a_backend(generator: random.Random) -> None:
        # With the locks that it holds; the other ones go on.
        for _ in range(generator.randint(1, 3)):
            backends = await asyncio.to_thread(postgres.backends)
            with postgres.frozen_backend(generator.choice(backends)) if backends else contextlib.nullcontext():
                await asyncio.sleep(generator.uniform(0.5, 4) if rounds > ROUNDS else generator.uniform(0.5, 2))
            await asyncio.sleep(generator.uniform(0, 0.3))

    faults = [freeze_a_backend, freeze, freeze_and_kill_the_service, stop_fast, stop_immediately, terminate_backends]
    await course.run("stops and freezes of PostgreSQL", rounds, faults)


@contextlib.contextmanager
def _thawed_in_the_end(postgres: PostgresServer) -> Iterator[None]:
    try:
        yield
    finally:
        postgres.thaw()


def _freeze_seconds(generator: random.Random, rounds: int) -> float:
    if rounds > ROUNDS and generator.random() < LONG_FREEZES:
        return generator.uniform(4, LONG_FREEZE_SECONDS)
    return generator.uniform(1, 4)


async def test_faults_of_the_network(
    empty_postgres: PostgresServer, new_service: NewService, rounds: int, seed: int, report: Report
) -> None:
    postgres = empty_postgres
    async with Proxy(postgres.port) as proxy:
        course = Rounds(postgres, lambda: new_service(proxy.dsn(postgres.dsn)), seed, report)
        taken = _Taken(postgres, course)

        def cut_at_commit(cut: Cut, name: str) -> Fault:
            async def cut_commits(generator: random.Random) -> None:
                wanted = proxy.cuts + 3
                proxy.at_commit(cut, times=3, least_booking=1)
                await eventually(lambda: proxy.cuts >= wanted, 10, "COMMITs to cut")

            cut_commits.__name__ = name
            return cut_commits

        async def cut_after_commit_of_large_bulks(generator: random.Random) -> None:
            # What is booked already is more than a settling batch.
            assert course.load is not None
            proxy.at_commit(Cut.AFTER_COMMIT, times=2, least_booking=LARGE_BOOKING)
            async with asyncio.TaskGroup() as bulks:
                for _ in range(2):
                    bulks.create_task(course.load.send_large_bulk(generator))

        async def hold_a_commit(generator: random.Random) -> None:
            # Shorter than idle_in_transaction_session_timeout, longer than the service waits: it lands late.
            await _hold(proxy)
            await asyncio.sleep(generator.uniform(1.6, 2.4))
            proxy.release()

        async def hold_a_commit_over_a_restart(generator: random.Random) -> None:
            await _hold(proxy)
            await asyncio.sleep(generator.uniform(0, 1))
            await taken.restart_service()
            proxy.release()

        async def reset_connections(_generator: random.Random) -> None:
            proxy.reset()

        async def half_close_connections(_generator: random.Random) -> None:
            proxy.half_close()

        async def black_hole(generator: random.Random) -> None:
            proxy.black_hole(*generator.choice([DIRECTIONS, DIRECTIONS[:1], DIRECTIONS[1:]]))
            await asyncio.sleep(generator.uniform(1, 4))
            proxy.heal()

        faults = [
            *([] if LARGE_BULKS in NOT_YET else [cut_after_commit_of_large_bulks]),
            hold_a_commit_over_a_restart,
            cut_at_commit(Cut.AFTER_COMMIT, "cut_after_commit"),
            cut_at_commit(Cut.BEFORE_COMMIT, "cut_before_commit"),
            black_hole,
            hold_a_commit,
            reset_connections,
            half_close_connections,
        ]
        await course.run("faults of the network", rounds + rounds // 2, faults)


async def _hold(proxy: Proxy) -> None:
    proxy.at_commit(Cut.HOLD_COMMIT, least_booking=1)
    await eventually(lambda: proxy.holds > 0, 10, "a COMMIT to hold")


async def test_a_database_that_flaps(
    empty_postgres: PostgresServer, new_service: NewService, rounds: int, seed: int, report: Report
) -> None:
    """It goes and comes every 0.2 to 3 s for a while: refused and reset, frozen, or cut off without a word."""
    postgres = empty_postgres
    async with Proxy(postgres.port) as proxy:
        course = Rounds(postgres, lambda: new_service(proxy.dsn(postgres.dsn)), seed, report)

        async def flap(generator: random.Random) -> None:
            watch = Stopwatch()
            lasting = LONG_FLAP_SECONDS if rounds > ROUNDS else FLAP_SECONDS
            ways = ["refused", "frozen", "black hole"]
            generator.shuffle(ways)
            for way in itertools.cycle(ways):
                if watch.seconds > lasting:
                    break
                await _away(way, generator.uniform(0.2, 2), postgres, proxy)
                await asyncio.sleep(generator.uniform(0.2, 3) if rounds > ROUNDS else generator.uniform(0.2, 1))

        await course.run("flapping", max(1, rounds // 4), [flap])


async def test_disasters_that_the_operator_has_a_part_in(
    empty_postgres: PostgresServer, new_service: NewService, rounds: int, seed: int, report: Report
) -> None:
    """The node's disk hangs; an older backup of the database is restored."""
    course = Rounds(empty_postgres, lambda: new_service(empty_postgres.dsn), seed, report)
    faults = disasters(course)
    if not faults:
        pytest.skip("none of them can be taken yet")
    await course.run("disasters", max(1, rounds // 4), faults)


async def _away(way: str, seconds: float, postgres: PostgresServer, proxy: Proxy) -> None:
    if way == "refused":
        proxy.refuse()
        proxy.reset()
        await asyncio.sleep(seconds)
        await proxy.accept()
    elif way == "frozen":
        with _thawed_in_the_end(postgres):
            await asyncio.to_thread(postgres.freeze)
            await asyncio.sleep(seconds)
    else:
        proxy.black_hole()
        await asyncio.sleep(seconds)
        proxy.heal()
