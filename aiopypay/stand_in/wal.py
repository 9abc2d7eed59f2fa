"""A look into SQLite's write-ahead log, to tell what SQLite does not: that it left out the end of it."""

import struct
from pathlib import Path

_HEADER = struct.Struct(">IIIIIIII")
_FRAME = struct.Struct(">IIIIII")


def frames_written(path: Path) -> int:
    """Returns how many frames (pages) were written to a log since it last started anew, a cut one at the end included.

    Those of earlier runs, which it overwrites one by one, have other salts. Raises OSError.
    """
    with path.open("rb") as log:
        header = log.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return 0
        _, _, page_bytes, _, salt_1, salt_2, _, _ = _HEADER.unpack(header)
        frames = 0
        while len(frame := log.read(_FRAME.size)) == _FRAME.size:
            if _FRAME.unpack(frame)[2:4] != (salt_1, salt_2):
                break
            frames += 1
            log.seek(page_bytes, 1)
        return frames
