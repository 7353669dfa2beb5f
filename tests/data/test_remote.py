"""Shards behind an address: a real S3 server, and a web server that fails now and then."""

from __future__ import annotations

import gc
import http.server
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from waiting import DEADLINE, wait_for

from data.files import CachedFiles
from data.manifest import load_manifest
from data.remote import Remote, is_remote
from data.stream import ShardStream

BATCHES = 30


def _open(location: Path | str, cache: Path, **changes: Any) -> ShardStream:
    options = {"rank": 0, "world_size": 1, "global_batch": 12, "sequence_length": 32, "seed": 0, **changes}
    return ShardStream(location, cache=cache, **options)


def _same_batches(remote: ShardStream, folder: Path, cache: Path) -> None:
    for ours, theirs, _ in zip(remote, _open(folder, cache), range(BATCHES), strict=False):
        assert torch.equal(ours.sample_ids, theirs.sample_ids)
        assert torch.equal(ours.tokens, theirs.tokens)


class Moody(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; each file's first requests meet a 500, a reset half-way, and a stall."""

    moods = ("error", "reset", "stall")
    asked: Counter[str]

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        number = self.asked[self.path] - 1
        mood = self.moods[number] if number < len(self.moods) else "good"
        if mood == "error":
            self.send_error(500)
        elif mood == "good" or not Path(self.translate_path(self.path)).is_file():
            super().do_GET()
        else:
            data = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            if mood == "stall":
                # Say nothing until the other side has had enough.
                self.connection.settimeout(60)
                self.connection.recv(1)
            # Close with a reset instead of an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def web(folder: Path) -> Iterator[tuple[str, type[Moody]]]:
    """The folder's address, and the handler's class."""
    moody = type("OfThisTest", (Moody,), {"asked": Counter()})

    def handler(*arguments: Any) -> Moody:
        return moody(*arguments, directory=str(folder))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", moody
    server.shutdown()
    server.server_close()


def test_shards_in_s3_give_the_same_batches(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        bucket = fsspec.filesystem("s3", skip_instance_cache=True)
        bucket.mkdir("shards")
        for file in folder.iterdir():
            bucket.put_file(str(file), f"shards/mine/{file.name}")
        _same_batches(_open("s3://shards/mine/manifest.json", tmp_path / "cache"), folder, tmp_path)
        with pytest.raises(FileNotFoundError, match=r"s3://shards/other/manifest\.json does not exist"):
            _open("s3://shards/other", tmp_path / "cache")
    finally:
        server.stop()


def test_a_server_that_fails_now_and_then_is_asked_again(
    web: tuple[str, type[Moody]], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, handler = web
    monkeypatch.setattr("data.files.Remote", lambda address: Remote(address, first_wait=0.05, stall=1.0))
    _same_batches(_open(address, tmp_path / "cache"), folder, tmp_path)
    shards = load_manifest(folder).splits["train"].shards
    # Three failures at least (a busy machine can stall by itself), then whole; from then on the copy is read.
    assert all(handler.asked[f"/{shard.name}"] >= 4 for shard in shards)
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    gc.collect()  # errors hold on to the first reader, and it to its copies
    before = handler.asked.copy()
    _same_batches(_open(address, tmp_path / "cache"), folder, tmp_path)
    assert {path for path in handler.asked if handler.asked[path] > before[path]} == {
        "/manifest.json",
        "/tokenizer.json",
        "/tokenizer_config.json",
    }


def test_a_server_that_always_fails_ends_it(web: tuple[str, type[Moody]], tmp_path: Path) -> None:
    address, handler = web
    handler.moods = ("error",) * 100
    with pytest.raises(OSError, match=r"manifest\.json could not be read in 3 attempts .*500") as error:
        Remote(address, attempts=3, first_wait=0.01).download("manifest.json", tmp_path / "manifest.json")
    assert "\n" not in str(error.value)
    assert handler.asked["/manifest.json"] == 3
    assert not list(tmp_path.glob("*manifest.json*"))


def test_a_copy_that_is_not_the_shard_is_not_believed(
    web: tuple[str, type[Moody]], folder: Path, tmp_path: Path
) -> None:
    address, handler = web
    handler.moods = ()
    file = folder / "train-000001.tar"
    file.write_bytes(file.read_bytes()[:-512])
    with pytest.raises(OSError, match="bytes came"):
        Remote(address, attempts=2, first_wait=0.01).download(
            file.name, tmp_path / "copy", load_manifest(folder).splits["train"].shards[1].bytes
        )


def test_the_cache_keeps_to_its_room(web: tuple[str, type[Moody]], folder: Path, tmp_path: Path) -> None:
    address, handler = web
    handler.moods = ()
    shards = load_manifest(folder).splits["train"].shards
    room = 6 * max(shard.bytes for shard in shards)
    files = CachedFiles(Remote(address), shards, tmp_path / "cache", room, at_once=2)
    for index in [*range(len(shards)), 0]:
        assert files.file(index).stat().st_size == shards[index].bytes
        assert sum(file.stat().st_size for file in (tmp_path / "cache").iterdir()) <= room
    assert handler.asked["/train-000000.tar"] == (2 if len(shards) > 6 else 1)
    del files
    gc.collect()
    (tmp_path / "cache" / "stranger").write_text("left by something else")
    CachedFiles(Remote(address), shards, tmp_path / "cache", room, at_once=2)
    assert {file.name for file in (tmp_path / "cache").iterdir()} <= {shard.name for shard in shards}
    with pytest.raises(ValueError, match=r"data\.cache_bytes is 10"):
        CachedFiles(Remote(address), shards, tmp_path / "cache", 10, at_once=2)


def test_a_second_reader_leaves_the_first_ones_downloads_and_copies_alone(
    web: tuple[str, type[Moody]], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, handler = web
    handler.moods, released = (), threading.Event()

    def held(self: Moody) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:1024])
        self.wfile.flush()
        released.wait(DEADLINE)
        self.wfile.write(data[1024:])

    monkeypatch.setattr(handler, "do_GET", held)
    shards, cache = load_manifest(folder).splits["train"].shards, tmp_path / "cache"
    room = sum(shard.bytes for shard in shards)
    first = CachedFiles(Remote(address), shards, cache, room, at_once=2)
    first.fetch_ahead([0, 1])
    wait_for(lambda: len(list(cache.glob(".*.incomplete"))) == 2)
    second = CachedFiles(Remote(address), shards, cache, room, at_once=2)
    assert len(list(cache.glob(".*.incomplete"))) == 2
    released.set()
    files = [reader.file(index) for reader in (first, second) for index in (0, 1)]
    assert len(set(files)) == 4
    assert all(file.is_file() for file in files)
    del first, second
    gc.collect()
    assert CachedFiles(Remote(address), shards, cache, room, at_once=2).file(0) == files[0]


def test_a_copy_that_vanished_is_fetched_again(
    web: tuple[str, type[Moody]], folder: Path, tmp_path: Path
) -> None:
    address, handler = web
    handler.moods = ()
    stream, here = _open(address, tmp_path / "cache"), _open(folder, tmp_path)
    count = load_manifest(folder).splits["train"].sequences
    for ids in np.array_split(np.arange(count), 10):
        assert torch.equal(stream.sequence_rows(ids), here.sequence_rows(ids))
        for copy in (tmp_path / "cache").rglob("*.tar"):
            copy.unlink()
    with pytest.raises(FileNotFoundError, match=r"other\.tar does not exist"):
        Remote(address).download("other.tar", tmp_path / "other.tar")


def test_only_known_kinds_of_addresses_are_opened(tmp_path: Path) -> None:
    assert is_remote("s3://bucket/shards")
    assert not is_remote(str(tmp_path))
    assert not is_remote("runs/shards")
    for location in ("pipe:cat /etc/passwd", "file:///etc", "ftp://host/x"):
        with pytest.raises(ValueError, match="is not a folder"):
            is_remote(location)
