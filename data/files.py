"""Access to the files of a data folder, local or through a bounded local cache of remote files."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from data import tokenizer
from data.manifest import FILE_NAME, Manifest, Shard, SplitName, load_manifest
from data.remote import Remote, is_remote
from data.tokenizer_config import CONFIG_NAME
from odeformer.files.digest import file_digest
from odeformer.files.lock import locked

CACHE_BYTES = 16 * 2**30
"""Default size of the cache of remote shards."""
FETCHED_AT_ONCE = 4
"""Number of concurrent downloads."""


class LocalFiles:
    """Shards in a local folder."""

    def __init__(self, folder: Path, shards: Sequence[Shard]) -> None:
        """Check that every file exists and has its size.

        Raises:
            ValueError: naming all missing or wrong files.
        """
        self._folder, self._shards = folder, shards
        wrong = size_problems(folder, shards)
        if wrong:
            shown = "; ".join(wrong[:20]) + (f"; and {len(wrong) - 20} more" * (len(wrong) > 20))
            raise ValueError(f"{folder} is damaged: {shown}: copy or build it again")

    def file(self, index: int) -> Path:
        """A shard's file."""
        return self._folder / self._shards[index].name


def size_problems(folder: Path, shards: Iterable[Shard]) -> list[str]:
    """A message for each shard that is missing or has the wrong size."""
    wrong = []
    for shard in shards:
        file = folder / shard.name
        if not file.is_file():
            wrong.append(f"{shard.name} is missing")
        elif file.stat().st_size != shard.bytes:
            wrong.append(f"{shard.name} has {file.stat().st_size} bytes, not {shard.bytes}")
    return wrong


class CachedFiles:
    """A least-recently-used cache of remote shards, which downloads shards before they are needed.

    Args:
        remote: the remote folder.
        shards: the shards of one split.
        folder: the cache folder; while another reader has it, one beside it is used.
        room: maximum bytes of cached shards.
        at_once: number of shards that are needed at the same time.

    Raises:
        ValueError: if ``room`` is too small for ``at_once`` shards and those being downloaded.
    """

    def __init__(
        self, remote: Remote, shards: Sequence[Shard], folder: Path, room: int, at_once: int
    ) -> None:
        largest = max(shard.bytes for shard in shards)
        needed = min(at_once + FETCHED_AT_ONCE, len(shards))
        if room < needed * largest:
            raise ValueError(
                f"data.cache_bytes is {room}, but {needed} shards of up to {largest} bytes are needed at a "
                f"time: give it at least {needed * largest}"
            )
        self._remote, self._shards, self._room = remote, shards, room
        self._fetched: OrderedDict[int, Future[Path]] = OrderedDict()
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(FETCHED_AT_ONCE, thread_name_prefix="fetch")
        self._owned = ExitStack()  # until this reader ends, nobody else takes over its folder
        self._folder = self._owned.enter_context(_own_folder(folder))
        self._take_over()

    def file(self, index: int) -> Path:
        """A shard's local file, after waiting for its download if necessary."""
        return self._start(index).result()

    def fetch_ahead(self, indices: Iterable[int]) -> None:
        """Start downloading shards that will be needed soon."""
        for index in indices:
            self._start(index)

    def _start(self, index: int) -> Future[Path]:
        with self._lock:
            download = self._fetched.get(index)
            if download is None or (download.done() and not self._is_there(download)):
                self._make_room(self._shards[index].bytes)
                download = self._fetched[index] = self._pool.submit(self._fetch, self._shards[index])
            self._fetched.move_to_end(index)
            return download

    @staticmethod
    def _is_there(download: Future[Path]) -> bool:
        return download.exception() is None and download.result().is_file()

    def _make_room(self, size: int) -> None:
        """Remove the least recently used shards until ``size`` more bytes fit."""
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
        """Adopt the complete shards that an earlier reader left in the folder, and remove all other files."""
        known = {shard.name: index for index, shard in enumerate(self._shards)}
        for file in sorted(self._folder.iterdir()):
            index = known.get(file.name)
            if index is None or file.stat().st_size != self._shards[index].bytes:
                file.unlink()
            else:
                self._make_room(self._shards[index].bytes)
                self._fetched[index] = Future()
                self._fetched[index].set_result(file)


@contextmanager
def _own_folder(folder: Path) -> Iterator[Path]:
    """Yield the folder, or while another reader has it, the first free one of ``folder-1``, ``folder-2`` etc.

    Its lock lies beside it, and the kernel releases it when the reader dies.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for own in chain([folder], (folder.with_name(f"{folder.name}-{number}") for number in count(1))):
        with suppress(BlockingIOError), locked(own.with_name(f"{own.name}.lock"), wait=False):
            own.mkdir(exist_ok=True)
            yield own
            return


def local_description(location: str, cache: Path) -> Path:
    """A local folder with the manifest and the tokenizer of a data folder, which may be remote.

    Raises:
        FileNotFoundError, OSError, ValueError: if there is none, or it cannot be read.
    """
    if not is_remote(location):
        path = Path(location)
        return path.parent if path.name == FILE_NAME else path
    remote = Remote(_address(location))
    folder = cache / hashlib.sha256(remote.address.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for name in (FILE_NAME, tokenizer.FILE_NAME):
        remote.download(name, folder / name)
    with suppress(FileNotFoundError):  # only with a tokenizer of others
        remote.download(CONFIG_NAME, folder / CONFIG_NAME)
    return folder


def tokenizer_problem(folder: Path, manifest: Manifest) -> str | None:
    """A message if the folder's tokenizer is missing or not the one in the manifest."""
    file = folder / tokenizer.FILE_NAME
    if not file.is_file():
        return f"{file.name} is missing"
    if file_digest(file) != manifest.tokenizer_sha256:
        return f"{file.name} is not the one in the manifest"
    return None


class Description(NamedTuple):
    """A data folder's manifest, and the local folder that holds it and the tokenizer."""

    folder: Path
    manifest: Manifest


def describe(location: str, cache: Path) -> Description:
    """Read and validate the manifest and the tokenizer of a data folder, local or remote.

    Raises:
        FileNotFoundError, OSError, ValueError: if a file is missing, damaged or cannot be read.
    """
    folder = local_description(location, cache)
    manifest = load_manifest(folder)
    if problem := tokenizer_problem(folder, manifest):
        raise ValueError(f"{folder} is damaged: {problem}: copy or build it again")
    return Description(folder, manifest)


def open_files(
    location: str, description: Description, split: SplitName, room: int, at_once: int, name: str
) -> LocalFiles | CachedFiles:
    """The files of one split of a data folder.

    Args:
        location: path or address of a data folder or its manifest.json.
        description: what :func:`describe` returned for it; copies of remote shards are kept in its folder.
        split: the split.
        room: maximum bytes of cached shards.
        at_once: number of shards that are needed at the same time.
        name: a name that distinguishes readers that share the cache folder.

    Raises:
        FileNotFoundError, OSError, ValueError: if a file is missing, damaged or cannot be read.
    """
    folder, manifest = description
    if split not in manifest.splits:
        raise ValueError(f"split is {split!r}: choose one of {', '.join(manifest.splits)}")
    shards = manifest.splits[split].shards
    if not is_remote(location):
        return LocalFiles(folder, shards)
    copies = folder / f"{manifest.digest()[:16]}-{split}-{name}"
    return CachedFiles(Remote(_address(location)), shards, copies, room, at_once)


def _address(location: str) -> str:
    return location.removesuffix(FILE_NAME).rstrip("/")
