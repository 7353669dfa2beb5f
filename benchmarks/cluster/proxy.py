"""A TCP proxy on this machine that can refuse connections, or take and never answer them."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import suppress


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


class Proxy:
    """Passes what comes to its ``port`` on to another port, while its ``mode`` is ``pass``."""

    def __init__(self, target: int) -> None:
        self.mode = "pass"
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def become(self, mode: str) -> Callable[[], None]:
        """Set the mode: ``refuse`` resets each connection, ``hang`` is silent. Returns what sets ``pass``."""
        self.mode = mode
        return lambda: setattr(self, "mode", "pass")

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self.mode == "refuse":
                # Reset, as by a machine without the service, instead of closed after an answer of nothing.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                return
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                self._pass(client, server)

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        with selectors.DefaultSelector() as ready:
            for end in other:
                ready.register(end, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select(timeout=0.2):
                    end = key.fileobj
                    assert isinstance(end, socket.socket)
                    while self.mode == "hang":
                        threading.Event().wait(0.2)
                    data = b"" if self.mode == "refuse" else end.recv(2**16)
                    if not data:
                        return
                    other[end].sendall(data)
