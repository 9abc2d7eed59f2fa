"""Somebody else sits on the database's port while it is stopped: they are told nothing, and the operator is told."""

from tests.fake_server import IN_CLEAR, listening

from .shop import Shop


async def test_the_node_stands_in_and_says_who_is_there(shop: Shop) -> None:
    await shop.service.wait_filled()
    shop.postgres.stop()
    with listening(IN_CLEAR, shop.postgres.port) as fake:
        await shop.service.wait_health(
            lambda health: "does not prove that it knows the password" in (health["settling_waits_for"] or ""),
            "the operator is told",
        )
        assert (await shop.pay("1")).status == 202
        await shop.service.terminate()
        shop.service.start()
        await shop.service.wait_ready()
        assert (await shop.pay("2")).status == 202
        assert "does not prove that it knows the password" in shop.service.log()
    assert fake.asked.is_set()
    assert fake.told == b""

    shop.postgres.start()
    await shop.service.wait_mode("online")
    assert (await shop.service.health())["settling_waits_for"] is None
