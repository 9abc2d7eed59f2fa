"""kill -9 at random moments under load: what was acknowledged is booked, once, and nothing else is.

A few rounds run each time; `--outage-rounds N` runs as many as one likes, `--outage-seed N` repeats a run's draws.
"""

import asyncio
import random
from collections.abc import Callable

from .conftest import NewService
from .postgres import PostgresServer
from .proxy import DIRECTIONS, Cut, Proxy
from .rounds import Fault, Rounds
from .waiting import eventually


async def test_kill_9_of_the_service_and_of_postgresql(
    empty_postgres: PostgresServer, new_service: NewService, rounds: int, seed: int, report: Callable[[str], None]
) -> None:
    postgres = empty_postgres
    service = new_service(postgres.dsn)

    async def kill_the_service(_generator: random.Random) -> None:
        service.kill()
        service.start()
        await service.wait_ready()

    async def kill_postgresql(_generator: random.Random) -> None:
        await asyncio.to_thread(postgres.kill)
        await asyncio.to_thread(postgres.start)

    async def kill_both(generator: random.Random) -> None:
        kills = [service.kill, postgres.kill]
        generator.shuffle(kills)
        for kill in kills:
            await asyncio.to_thread(kill)
        await asyncio.to_thread(postgres.start)
        service.start()
        await service.wait_ready()

    async def kill_a_backend(generator: random.Random) -> None:
        # PostgreSQL then ends all other sessions too, and recovers.
        postgres.kill_backend(generator.choice(await asyncio.to_thread(postgres.backends)))

    await _run(
        Rounds(postgres, service, seed, report),
        rounds,
        [kill_the_service, kill_postgresql, kill_both, kill_a_backend],
    )


async def test_stops_and_freezes_of_postgresql(
    empty_postgres: PostgresServer, new_service: NewService, rounds: int, seed: int, report: Callable[[str], None]
) -> None:
    postgres = empty_postgres
    service = new_service(postgres.dsn)

    async def freeze(generator: random.Random) -> None:
        # Longer than the service waits: what was on its way is executed after the service has given up.
        await asyncio.to_thread(postgres.freeze)
        await asyncio.sleep(generator.uniform(1, 4))
        postgres.thaw()

    async def stop_fast(_generator: random.Random) -> None:
        await asyncio.to_thread(postgres.stop, "fast")
        await asyncio.to_thread(postgres.start)

    async def stop_immediately(_generator: random.Random) -> None:
        await asyncio.to_thread(postgres.stop, "immediate")
        await asyncio.to_thread(postgres.start)

    async def terminate_backends(_generator: random.Random) -> None:
        await asyncio.to_thread(postgres.terminate_backends)

    await _run(
        Rounds(postgres, service, seed, report), rounds, [freeze, stop_fast, stop_immediately, terminate_backends]
    )


async def test_faults_of_the_network(
    empty_postgres: PostgresServer, new_service: NewService, rounds: int, seed: int, report: Callable[[str], None]
) -> None:
    postgres = empty_postgres
    async with Proxy(postgres.port) as proxy:
        service = new_service(proxy.dsn(postgres.dsn))

        def cut_at_commit(cut: Cut, name: str) -> Fault:
            async def cut_commits(generator: random.Random) -> None:
                wanted = proxy.cuts + 3
                proxy.at_commit(cut, times=3)
                await eventually(lambda: proxy.cuts >= wanted, 10, "COMMITs to cut")

            cut_commits.__name__ = name
            return cut_commits

        async def hold_a_commit(generator: random.Random) -> None:
            # Shorter than idle_in_transaction_session_timeout, longer than the service waits: it lands late.
            proxy.at_commit(Cut.HOLD_COMMIT)
            await eventually(lambda: proxy.holds > 0, 10, "a COMMIT to hold")
            await asyncio.sleep(generator.uniform(1.6, 2.4))
            proxy.release()

        async def reset_connections(_generator: random.Random) -> None:
            proxy.reset()

        async def half_close_connections(_generator: random.Random) -> None:
            proxy.half_close()

        async def black_hole(generator: random.Random) -> None:
            proxy.black_hole(*generator.choice([DIRECTIONS, DIRECTIONS[:1], DIRECTIONS[1:]]))
            await asyncio.sleep(generator.uniform(1, 4))
            proxy.heal()

        await _run(
            Rounds(postgres, service, seed, report),
            rounds + rounds // 2,
            [
                cut_at_commit(Cut.BEFORE_COMMIT, "cut_before_commit"),
                cut_at_commit(Cut.AFTER_COMMIT, "cut_after_commit"),
                hold_a_commit,
                reset_connections,
                half_close_connections,
                black_hole,
            ],
        )


async def _run(course: Rounds, rounds: int, faults: list[Fault]) -> None:
    """Faults take turns."""
    await course.begin()
    for number in range(rounds):
        await course.run(number, faults[number % len(faults)])
    await course.end()
