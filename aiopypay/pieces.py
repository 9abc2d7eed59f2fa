"""Large answers in pieces: a client that does not read holds one of them in memory, not all of the answer."""

from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

# As much as a transport takes before it asks to wait.
PIECE_BYTES = 64 * 1024


def in_pieces(response: web.StreamResponse) -> None:
    """Has the response's body sent in pieces, where it is larger than one."""
    if isinstance(response, web.Response) and isinstance(response.body, bytes) and len(response.body) > PIECE_BYTES:
        response.body = _Pieces(response.body)


class _Pieces(Payload):
    """Each is written when the one before has left. aiohttp's own payloads of bytes write, or copy, them whole."""

    _autoclose = True

    def __init__(self, value: bytes) -> None:
        super().__init__(value)
        self._size = len(value)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Writes all."""
        value = memoryview(self._value)
        for start in range(0, len(value), PIECE_BYTES):
            await writer.write(value[start : start + PIECE_BYTES])
            await writer.drain()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> Any:
        """See Payload."""
        return self._value.decode(encoding, errors)
