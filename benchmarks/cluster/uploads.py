"""A gigabyte sent to the pool's door through Ray Serve's proxy: what it takes, and what others wait.

    python -m benchmarks.cluster.uploads --json OUT

A pool and its door on Ray Serve, as `odeformer pool door` opens it. A client that ignores its answer sends
1 GiB over loopback: with the size announced, in chunks without a size, and in chunks without a valid key;
then ten such clients at once; then ten of one key send proper files of 99 MiB at once. Meanwhile another
team's client lists its files and jobs, one request after the other. Memory is the growth of the resident
memory of Ray Serve's proxy and of the door's processes, disk what the door's processes have open in the
pool's folder, each the largest value that was seen.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

import psutil
import requests

from benchmarks import bench
from benchmarks.bench import Row
from cluster.connection.connect import ray_cluster
from cluster.door import deployment
from cluster.door.settings import DoorSettings
from cluster.pool import Pool, PoolSettings

SIZE, PIECE, PORT = 2**30, 2**18, 18735
LOOK_SECONDS = 0.02
HEAD = (
    "POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    "Content-Type: multipart/form-data; boundary=b\r\n{framing}\r\n\r\n"
)
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
END = b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b--\r\n'
LINE = b'{"prompt": "%s", "completion": "an answer"}\n' % (b"a question " * 20)
LARGE = 99 * 2**20


class Sent(NamedTuple):
    """The answer to an upload, and how much was sent until the connection was closed."""

    status: str
    bytes_sent: int
    seconds: float


def main() -> None:
    """Measure each way of sending, and print and write its row."""
    arguments = bench.parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings = PoolSettings(dir=folder / "pool", tracking_uri=f"sqlite:///{folder}/mlflow.db")
        with ray_cluster(None, finetune_slots=1), Pool.start(settings) as pool:
            deployment.deploy("127.0.0.1", PORT)
            key, other = pool.add_key("docs")[1], pool.add_key("sales")[1]
            wait_until_answers(other)
            gigabyte, large = piece_of(b"x"), piece_of(LINE)
            rows = [
                measured("nobody", folder, other, lambda: []),
                measured("1 GiB, announced", folder, other, lambda: [send(key, SIZE, gigabyte)]),
                measured("1 GiB in chunks", folder, other, lambda: [send(key, None, gigabyte)]),
                measured("the same, no key", folder, other, lambda: [send("none", None, gigabyte)]),
                measured("10 × 1 GiB", folder, other, lambda: at_once(key, None, gigabyte)),
                measured("10 × 99 MiB, proper", folder, other, lambda: at_once(key, LARGE, large)),
            ]
    content = {**bench.stamp("ray"), "load": os.getloadavg()[0], "limit": DoorSettings().most_file_bytes}
    bench.save(arguments.json, {**content, "rows": rows})


def piece_of(line: bytes) -> bytes:
    """Whole lines of about a quarter of a mebibyte."""
    return line * (PIECE // len(line))


def at_once(key: str, size: int | None, piece: bytes) -> list[Sent]:
    """Send from ten clients at the same time."""
    with ThreadPoolExecutor(10) as clients:
        return list(clients.map(lambda _: send(key, size, piece), range(10)))


def send(key: str, size: int | None, piece: bytes) -> Sent:
    """Send a form as fast as it is taken, until it is over or the connection is closed.

    Args:
        size: the bytes of the form, announced; ``None`` sends a gigabyte in chunks.
        piece: what the file consists of.
    """
    began, sent, answer = time.monotonic(), 0, b""
    framing = "Transfer-Encoding: chunked" if size is None else f"Content-Length: {size}"
    middle = (size or SIZE) - len(PART) - len(END)
    with socket.create_connection(("127.0.0.1", PORT)) as connection:
        connection.settimeout(60)
        with suppress(OSError):
            connection.sendall(HEAD.format(key=key, framing=framing).encode())
            connection.sendall(PART if size else b"%x\r\n%s\r\n" % (len(PART), PART))
            while sent < middle:
                if not answer and select.select([connection], [], [], 0)[0]:
                    answer = connection.recv(64)
                part = piece if sent + len(piece) <= middle else b"\n" * (middle - sent)
                connection.sendall(part if size else b"%x\r\n%s\r\n" % (len(part), part))
                sent += len(part)
            connection.sendall(END if size else b"%x\r\n%s\r\n0\r\n\r\n" % (len(END), END))
        with suppress(OSError):
            answer = answer or connection.recv(64)
    words = answer.split(b" ")
    return Sent(words[1].decode() if len(words) > 1 else "closed", sent, time.monotonic() - began)


def measured(way: str, folder: Path, other: str, work: Callable[[], list[Sent]]) -> Row:
    """Send while another client asks, and the memory and the files are watched."""
    with asking(other) as waits, watching(folder / "pool") as most:
        time.sleep(3 if way == "nobody" else 1)
        sent = work()
        time.sleep(1)
    row = {
        "way": way,
        "answers": ", ".join(sorted(one.status for one in sent)),
        "MiB sent": sum(one.bytes_sent for one in sent) / 2**20,
        "seconds": max((one.seconds for one in sent), default=0.0),
        "proxy MiB": most["proxy"],
        "door MiB": most["door"],
        "disk MiB": most["disk"],
        "others asked": len(waits),
        "median wait": statistics.median(waits),
        "longest wait": max(waits),
    }
    bench.print_row(row)
    return row


@contextmanager
def asking(key: str) -> Iterator[list[float]]:
    """Ask one request after the other; the seconds that each took."""
    waits: list[float] = []
    end = Event()

    def ask() -> None:
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {key}"
            while not end.is_set():
                for path in ("/v1/files", "/v1/fine_tuning/jobs"):
                    began = time.monotonic()
                    session.get(f"http://127.0.0.1:{PORT}{path}", timeout=120).raise_for_status()
                    waits.append(time.monotonic() - began)

    thread = Thread(target=ask)
    thread.start()
    try:
        yield waits
    finally:
        end.set()
        thread.join()


@contextmanager
def watching(folder: Path) -> Iterator[dict[str, float]]:
    """The largest growth of memory and the largest files, in MiB."""
    processes = {
        "proxy": named("ProxyActor"),
        "door": named("ServeReplica:odeformer-"),
    }
    before = {name: memory(of) for name, of in processes.items()}
    most = {"proxy": 0.0, "door": 0.0, "disk": 0.0}
    end = Event()

    def watch() -> None:
        while not end.wait(LOOK_SECONDS):
            for name, of in processes.items():
                most[name] = max(most[name], memory(of) - before[name])
            most["disk"] = max(most["disk"], open_files(processes["door"], folder))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        end.set()
        thread.join()


def named(name: str) -> list[psutil.Process]:
    """This cluster's processes of a name: those whose ancestors include this process's children."""
    return [p for p in psutil.Process().children(recursive=True) if name in " ".join(p.cmdline())]


def memory(processes: list[psutil.Process]) -> float:
    """Resident memory in MiB."""
    return sum(process.memory_info().rss for process in processes) / 2**20


def open_files(processes: list[psutil.Process], folder: Path) -> float:
    """MiB of open files below a folder, also of nameless ones."""
    total = 0
    for process in processes:
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            with suppress(OSError):
                if str(link.readlink()).startswith(str(folder)):
                    total += link.stat().st_size
    return total / 2**20


def wait_until_answers(key: str) -> None:
    """Wait until both parts of the door answer."""
    for path in ("/v1/files", "/v1/fine_tuning/jobs"):
        while True:
            with suppress(requests.RequestException):
                headers = {"Authorization": f"Bearer {key}"}
                if requests.get(f"http://127.0.0.1:{PORT}{path}", headers=headers, timeout=60).ok:
                    break
            time.sleep(0.3)


if __name__ == "__main__":
    main()
