"""Random ids. One system call yields bytes for many of them: one each would cost more than all the rest of an id."""

import os
import time
from collections import deque
from uuid import UUID

ID_BYTES = 16
_IDS_AT_ONCE = 256

_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62
_RANDOM_BITS = (0xFFF << 64) | ((1 << 62) - 1)

# Taking from it is atomic, so that no two callers get the same bytes.
_drawn: deque[bytes] = deque()
os.register_at_fork(after_in_child=_drawn.clear)


def random_bytes() -> bytes:
    """Returns 16 random bytes that nobody else gets."""
    while True:
        try:
            return _drawn.popleft()
        except IndexError:
            block = os.urandom(ID_BYTES * _IDS_AT_ONCE)
            _drawn.extend(block[start : start + ID_BYTES] for start in range(0, len(block), ID_BYTES))


def uuid7() -> UUID:
    """Returns an id that begins with the time (RFC 9562, UUIDv7): ids of one moment lie side by side in an index."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(random_bytes()) & _RANDOM_BITS
    return UUID(int=milliseconds << 80 | _VERSION_7 | _VARIANT | random)
