"""Stores as released versions left them, file by file."""

import tarfile
from pathlib import Path

GOLDEN = Path(__file__).parent.parent / "golden"
FILES = ("store.sqlite", "key", "tail")


def put_golden_store(store_format: int, directory: Path) -> None:
    """Puts the store of this format into the directory."""
    directory.mkdir(mode=0o700, parents=True)
    with tarfile.open(GOLDEN / f"store-format-{store_format}.tar.gz") as archive:
        for name in FILES:
            file = archive.extractfile(name)
            assert file is not None
            (directory / name).write_bytes(file.read())
            (directory / name).chmod(0o600)
