"""MLflow servers that come and go, ports that swallow everything, and a proxy that loses answers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ports import free_port
from waiting import wait_for


class Server:
    """``mlflow server`` over a SQLite file, on a port that it keeps when it is stopped and started again.

    ``options`` come last, so that they count where they say something else; ``environment`` is added.
    """

    def __init__(
        self, folder: Path, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder, self._options = folder, options
        # Its executor of background jobs, which nothing here uses, is eight processes and 2 GB.
        no_jobs = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._environment = {**os.environ, **no_jobs, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts"), *self._options]
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._answers, (self._folder / "server.log").read_text)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "server.log").read_text()
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=10).read()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def server(
    folder: Path, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    made = Server(folder, options, environment)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@contextmanager
def black_hole() -> Iterator[str]:
    """The address of a port that takes connections and requests and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        kept: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    kept.append(listener.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for connection in kept:
            connection.close()


@contextmanager
def losing_answers(port: int, *paths: bytes) -> Iterator[str]:
    """A proxy that lets the server do what is asked, but loses the first answer to each of the paths."""
    left = list(paths)

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as upstream:
            request = client.recv(65536)
            head, _, body = request.partition(b"\r\n\r\n")
            lengths = [int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if b"content-length" in x]
            while lengths and len(body) < lengths[0]:
                more = client.recv(65536)
                body += more
            head = b"\r\n".join(x for x in head.split(b"\r\n") if not x.lower().startswith(b"connection"))
            upstream.sendall(head + b"\r\nConnection: close\r\n\r\n" + body)
            answer = b""
            while more := upstream.recv(65536):
                answer += more
            for path in left:
                if path in head.split(b"\r\n")[0]:
                    left.remove(path)
                    return
            client.sendall(answer)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)

        def accept() -> None:
            while True:
                try:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
