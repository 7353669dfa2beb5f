"""The files of a data folder: where they lie, or copies of remote ones in a bounded local cache."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import NamedTuple, Protocol

from data import tokenizer
from data.manifest import FILE_NAME, Manifest, Shard, SplitName, load_manifest
from data.remote import Remote, is_remote

CACHE_BYTES = 16 * 2**30
FETCHED_AT_ONCE = 4


class ShardFiles(Protocol):
    """The shards of one split, by their index."""

    def file(self, index: int) -> Path:
        """Return a shard's file, once it is there."""


class LocalFiles:
    """Shards in a folder."""

    def __init__(self, folder: Path, shards: Sequence[Shard]) -> None:
        """Check that every file is there with its size, before any work is started.

        Raises ValueError for missing or wrong files, all of them named.
        """
        self._folder, self._shards = folder, shards
        wrong = size_problems(folder, shards)
        if wrong:
            shown = "; ".join(wrong[:20]) + (f"; and {len(wrong) - 20} more" * (len(wrong) > 20))
            raise ValueError(f"{folder} is damaged: {shown}: copy or build it again")

    def file(self, index: int) -> Path:
        return self._folder / self._shards[index].name


def size_problems(folder: Path, shards: Iterable[Shard]) -> list[str]:
    """Return a line for each shard that is missing or has another size."""
    wrong = []
    for shard in shards:
        file = folder / shard.name
        if not file.is_file():
            wrong.append(f"{shard.name} is missing")
        elif file.stat().st_size != shard.bytes:
            wrong.append(f"{shard.name} has {file.stat().st_size} bytes, not {shard.bytes}")
    return wrong


class CachedFiles:
    """Copies of remote shards: fetched before they are needed, the longest unused removed first."""

    def __init__(
        self, remote: Remote, shards: Sequence[Shard], folder: Path, room: int, at_once: int
    ) -> None:
        """Raises ValueError if `room` (bytes) cannot hold the `at_once` shards that are needed at a time."""
        largest = max(shard.bytes for shard in shards)
        count = min(at_once + FETCHED_AT_ONCE, len(shards))
        if room < count * largest:
            raise ValueError(
                f"data.cache_bytes is {room}, but {count} shards of up to {largest} bytes are needed at a "
                f"time: give it at least {count * largest}"
            )
        self._remote, self._shards, self._folder, self._room = remote, shards, folder, room
        self._fetched: OrderedDict[int, Future[Path]] = OrderedDict()
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(FETCHED_AT_ONCE, thread_name_prefix="fetch")
        folder.mkdir(parents=True, exist_ok=True)
        self._take_over()

    def file(self, index: int) -> Path:
        return self._start(index).result()

    def fetch_ahead(self, indices: Iterable[int]) -> None:
        """Begin to fetch what will be needed soon."""
        for index in indices:
            self._start(index)

    def _start(self, index: int) -> "Future[Path]":
        with self._lock:
            found = self._fetched.get(index)
            if found is None or (found.done() and found.exception() is not None):
                self._make_room(self._shards[index].bytes)
                found = self._fetched[index] = self._pool.submit(self._fetch, self._shards[index])
            self._fetched.move_to_end(index)
            return found

    def _make_room(self, size: int) -> None:
        """Forget the longest unused shards until this many bytes more fit."""
        used = sum(self._shards[index].bytes for index in self._fetched)
        for index in list(self._fetched):
            if used + size <= self._room:
                return
            if self._fetched[index].done():
                del self._fetched[index]
                (self._folder / self._shards[index].name).unlink(missing_ok=True)
                used -= self._shards[index].bytes

    def _fetch(self, shard: Shard) -> Path:
        target = self._folder / shard.name
        self._remote.download(shard.name, target, shard.bytes)
        return target

    def _take_over(self) -> None:
        """Count the whole shards that an earlier reader left here, and remove everything else."""
        known = {shard.name: index for index, shard in enumerate(self._shards)}
        for file in sorted(self._folder.iterdir()):
            index = known.get(file.name)
            if index is None or file.stat().st_size != self._shards[index].bytes:
                file.unlink()
            else:
                self._make_room(self._shards[index].bytes)
                self._fetched[index] = Future()
                self._fetched[index].set_result(file)


def local_description(location: str, cache: Path) -> Path:
    """Return a local folder with the manifest and the tokenizer of a data folder, wherever that is.

    Raises FileNotFoundError, OSError or ValueError if there is none, or none that can be read.
    """
    if not is_remote(location):
        path = Path(location)
        return path.parent if path.name == FILE_NAME else path
    remote = Remote(_address(location))
    folder = cache / hashlib.sha256(remote.address.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for name in (FILE_NAME, tokenizer.FILE_NAME):
        remote.download(name, folder / name)
    return folder


def check_tokenizer(folder: Path, manifest: Manifest) -> None:
    """Raises ValueError if the folder's tokenizer is not the one that its tokens are of."""
    file = folder / tokenizer.FILE_NAME
    if not file.is_file():
        raise ValueError(f"{folder} is damaged: {file.name} is missing: copy or build it again")
    if hashlib.sha256(file.read_bytes()).hexdigest() != manifest.tokenizer_sha256:
        raise ValueError(
            f"{folder} is damaged: {file.name} is not the one in the manifest: copy or build it again"
        )


class Description(NamedTuple):
    """A data folder's manifest, and the local folder that holds it and the tokenizer."""

    folder: Path
    manifest: Manifest


def describe(location: str, cache: Path) -> Description:
    """Read and validate the manifest and the tokenizer of a data folder, local or remote.

    Raises FileNotFoundError, OSError or ValueError for what is missing, cannot be read or is damaged.
    """
    folder = local_description(location, cache)
    manifest = load_manifest(folder)
    check_tokenizer(folder, manifest)
    return Description(folder, manifest)


def open_files(
    location: str, described: Description, split: SplitName, room: int, at_once: int, name: str
) -> ShardFiles:
    """Return the files of one split.

    Args:
        location: a folder or its manifest.json, here or behind an address.
        described: what `describe` returned for it; copies of remote shards lie in its folder.
        room: bytes that the copies may take.
        at_once: shards that are needed at a time.
        name: tells readers apart that share the copies' folder.

    Raises FileNotFoundError, OSError or ValueError for what is not there, cannot be read or is damaged.
    """
    folder, manifest = described
    if split not in manifest.splits:
        raise ValueError(f"split is {split!r}: choose one of {', '.join(manifest.splits)}")
    shards = manifest.splits[split].shards
    if not is_remote(location):
        return LocalFiles(folder, shards)
    copies = folder / f"{manifest.digest()[:16]}-{split}-{name}"
    return CachedFiles(Remote(_address(location)), shards, copies, room, at_once)


def _address(location: str) -> str:
    return location.removesuffix(FILE_NAME).rstrip("/")
