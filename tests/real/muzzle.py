"""A way to PostgreSQL that can fall silent: the connections there stay open, their bytes are acknowledged, and nothing is answered any more.

So does a pooler that hangs, or a server whose disk does. Connections made later go through.
"""

import socket
import threading
from contextlib import suppress
from types import TracebackType

from sqlalchemy.engine import make_url


class Muzzle:
    """One proxy; `url` leads through it to the database behind `target`."""

    def __init__(self, target: str) -> None:
        url = make_url(target)
        folder = url.query.get("host")  # of a Unix socket, as the tests' shared server has
        self._up = (url.host or "127.0.0.1", url.port or 5432) if folder is None else f"{folder}/.s.PGSQL.{url.port or 5432}"
        self._server = socket.create_server(("127.0.0.1", 0))
        self._silent: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        self.url = url.difference_update_query(["host"]).set(host="127.0.0.1", port=self._server.getsockname()[1]).render_as_string(hide_password=False)
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Muzzle":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for one in (self._server, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def silence(self) -> None:
        """From now on the connections that are there are not answered."""
        self._silent |= self._open

    def _accept(self) -> None:
        with suppress(OSError):  # closed: the test is over
            while True:
                client, _ = self._server.accept()
                up = socket.socket(socket.AF_UNIX if isinstance(self._up, str) else socket.AF_INET)
                up.connect(self._up)
                self._open |= {client, up}
                for source, sink in ((client, up), (up, client)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if source not in self._silent:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
