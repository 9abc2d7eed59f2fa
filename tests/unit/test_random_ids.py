"""Ids are random, unlike in every thread, and begin with the time."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import RFC_4122, UUID

import pytest

from aiopypay.random_ids import random_bytes, uuid7


def test_an_id_is_of_version_7_and_begins_with_the_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7()
    after = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, RFC_4122)
    assert before <= made.int >> 80 <= after


@pytest.mark.parametrize("make", [uuid7, random_bytes])
def test_no_two_threads_get_the_same(make: Callable[[], UUID | bytes]) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = [found for some in threads.map(lambda _: [make() for _ in range(2_000)], range(8)) for found in some]
    assert len(set(made)) == 16_000


def test_every_random_bit_is_sometimes_set_and_sometimes_not() -> None:
    numbers = [uuid7().int for _ in range(1_000)]
    random_bits = (0xFFF << 64) | ((1 << 62) - 1)
    ever, always = 0, random_bits
    for number in numbers:
        ever |= number & random_bits
        always &= number
    assert (ever, always) == (random_bits, 0)


def test_a_forked_process_does_not_draw_what_its_parent_draws() -> None:
    random_bytes()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, random_bytes())
        os._exit(0)
    os.waitpid(child, 0)
    drawn = os.read(reader, 16)
    os.close(reader)
    os.close(writer)
    assert drawn != random_bytes()
