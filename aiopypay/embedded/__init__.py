"""A local PostgreSQL of one's own: finds the programs, makes the cluster, starts and stops the server.

A real server: fsync on, data checksums, TCP on 127.0.0.1 only, passwords by SCRAM. Everything here blocks and is
called before the event loop runs or after it ended.
"""

from aiopypay.embedded.errors import EmbeddedError, StoppedByOperator
from aiopypay.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedError", "EmbeddedPostgres", "StoppedByOperator"]
