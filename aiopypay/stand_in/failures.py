"""How the store says that it cannot do what it was asked."""

from aiopypay.errors import StartError


class StoreInUse(StartError):
    """Another process holds the directory. The message is one line that names it."""


class StoreFailed(Exception):
    """A write or a sync failed: nothing of that transaction is acknowledged; whether it is on disk is unknown."""


class StoreFull(StoreFailed):
    """The disk was full: nothing of that transaction is there, and what was written before is whole."""


class StoreDamaged(Exception):
    """What the store holds is not what was acknowledged. It is read as far as it verifies, and not written."""


class DuplicateEntry(Exception):
    """The journal holds an entry under this order id."""
