"""Runs a command of aiopypay on a disk whose syncs hang, or take long, while a file says so.

`python -m tests.outage.stuck FILE serve`: while FILE exists, each sync waits until it is gone, or as many seconds as it
says. The product knows nothing of it: what syncs is wrapped here, by its name. A disk that hangs is told sooner than
usual, for these tests' time.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiopypay import __main__
from aiopypay.stand_in import disk
from aiopypay.stand_in.store import Store

LOOK_SECONDS, SILENT_LOOKS = 0.25, 8
PATIENCE = "OUTAGE_USUAL_PATIENCE"


def main() -> None:
    """Wraps the syncs, and runs the command as the console script would."""
    file = Path(sys.argv.pop(1))

    def stuck(sync: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            _wait(file)
            return sync(*args, **kwargs)

        return call

    os.fsync, os.fdatasync = stuck(os.fsync), stuck(os.fdatasync)
    finish = Store._finish

    def finish_stuck(self: Store, durable: bool) -> bool:
        if durable:
            _wait(file)
        return finish(self, durable)

    Store._finish = finish_stuck  # type: ignore[method-assign]
    if PATIENCE not in os.environ:
        disk.LOOK_SECONDS, disk.SILENT_LOOKS = LOOK_SECONDS, SILENT_LOOKS
    __main__.main()


def _wait(file: Path) -> None:
    try:
        seconds = file.read_text()
    except FileNotFoundError:
        return
    if seconds:
        time.sleep(float(seconds))
        return
    while file.exists():
        time.sleep(0.01)


if __name__ == "__main__":
    main()
