"""Who sits on the database's port while it is stopped, and asks for the password in its way."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

# Messages of PostgreSQL's protocol: a request for the password in clear, for its MD5, for nothing; then ready.
IN_CLEAR = b"R" + struct.pack("!II", 8, 3)
AS_MD5 = b"R" + struct.pack("!II4s", 12, 5, b"salt")
NOT_AT_ALL = b"R" + struct.pack("!II", 8, 0) + b"Z" + struct.pack("!I", 5) + b"I"
WAYS = {"in_clear": IN_CLEAR, "as_md5": AS_MD5, "not_at_all": NOT_AT_ALL}


class FakeServer:
    """`told` is what clients said after its question."""

    def __init__(self, question: bytes, port: int = 0) -> None:
        self._question = question
        self._listener = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.port = self._listener.getsockname()[1]
        self.told = b""
        self.asked = threading.Event()
        self._thread.start()

    @property
    def dsn(self) -> str:
        """Leads here, with a password."""
        return f"host=127.0.0.1 port={self.port} user=anna password=secret dbname=aiopypay"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, contextlib.suppress(OSError):
                    client.settimeout(5)
                    (length,) = struct.unpack("!I", client.recv(4, socket.MSG_WAITALL))
                    client.recv(length - 4, socket.MSG_WAITALL)
                    client.sendall(self._question)
                    self.asked.set()
                    while heard := client.recv(4096):
                        self.told += heard

    def close(self) -> None:
        """Leaves the port."""
        with contextlib.suppress(OSError):
            # Ends the accept of the other thread, too.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@contextlib.contextmanager
def listening(question: bytes, port: int = 0) -> Iterator[FakeServer]:
    """Listens within."""
    server = FakeServer(question, port)
    try:
        yield server
    finally:
        server.close()
