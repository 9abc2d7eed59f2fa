"""What a run shows while it runs."""

import sys
import time

_CLEAR_LINE = "\r\033[K"
_started = time.monotonic()


def doing(what: str) -> None:
    """Shows on a terminal what goes on, until the next line."""
    if sys.stdout.isatty():
        print(f"{_CLEAR_LINE}{_elapsed()}{what} …", end="", flush=True)


def done(what: str) -> None:
    """Shows what was done, after the minutes and seconds of the run."""
    print(f"{_CLEAR_LINE if sys.stdout.isatty() else ''}{_elapsed()}{what}", flush=True)


def _elapsed() -> str:
    minutes, seconds = divmod(int(time.monotonic() - _started), 60)
    return f"{minutes:>3}:{seconds:02}  "
