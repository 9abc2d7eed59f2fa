"""The service's clock, moved while it runs: libfaketime, never the machine's."""

import email.utils
import time
from datetime import timedelta
from pathlib import Path

import aiohttp

LIBRARIES = sorted(Path("/usr/lib").glob("**/libfaketimeMT.so.1"))
MISSING = "libfaketime is not installed (Debian: apt-get install faketime)"


class Clock:
    """The wall clock of processes started with `environment`; where `monotonic` is given, time itself passes faster."""

    def __init__(self, directory: Path, *, monotonic: bool = False) -> None:
        self._file = directory / "clock"
        self.environment = {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            # Looked at once a second: more often would make every process slow.
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "0" if monotonic else "1",
        }
        self.shift("+0")

    def shift(self, offset: str) -> None:
        """Moves it, against the machine's clock, to such an offset as `+1d` or `-25h`."""
        moved = self._file.with_suffix(".new")
        moved.write_text(f"{offset}\n")
        moved.replace(self._file)


async def clock_of(base_url: str) -> timedelta:
    """How far the service's clock is off this machine's, by the Date of its answers."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        async with session.get(f"{base_url}/health") as response:
            date = email.utils.parsedate_to_datetime(response.headers["Date"])
            return timedelta(seconds=date.timestamp() - time.time())
