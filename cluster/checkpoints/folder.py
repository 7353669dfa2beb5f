"""A folder of commits: listing, verification, replacement and garbage collection."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar

from cluster.settings import CheckpointSettings
from odeformer.files.atomic import flush
from odeformer.files.digest import file_digest

if TYPE_CHECKING:  # which imports this module
    from cluster.checkpoints.identity import RunIdentity

T = TypeVar("T")

FORMAT_VERSION = 3
READABLE = (2, 3)
"""Format versions that can be read. Format 2 lacks random states and the id of the MLflow run."""
MANIFEST = "commit.json"
MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""Errors in reading a commit that mean damage. All others, of a disk or a server, may pass."""
READ_ATTEMPTS, FIRST_PAUSE = 6, 1.0
"""How often a file is read before its error counts, and the first pause in seconds, which then doubles."""


class Content(TypedDict, total=False):
    """Content of a commit's manifest."""

    format_version: int
    step: int
    stream: dict[str, Any]
    workers: int
    stage: int
    run: RunIdentity | None
    mlflow_run: str | None
    files: dict[str, str]


class Newest(NamedTuple):
    """The newest undamaged commit of a folder, if there is one."""

    commit: Path | None
    content: Content
    damaged: list[tuple[int, str]]
    """Step and reason of each damaged commit that is newer."""


class FormatError(Exception):
    """A commit has an unknown format version. It is not damaged and must not be skipped."""


def newest_good(folder: Path) -> Newest:
    """Verify every byte of the newest commit. Damaged commits are moved aside, and the one before is tried.

    Raises:
        FormatError: when the newest undamaged commit has a format that this version cannot read.
        OSError: when a commit cannot be read for another reason than damage; nothing is moved then.
    """
    collect_garbage(folder)
    damaged: list[tuple[int, str]] = []
    for commit in reversed(commits(folder)):
        try:
            return Newest(commit, verified(commit), damaged)
        except ValueError as error:
            damaged.append((step_of(commit), f"{commit}: {error}"))
        # Moved aside: a damaged commit must not count as one of the kept ones.
        commit.rename(_name_as_damaged(commit))
    return Newest(None, {}, damaged)


def has_damaged(folder: Path) -> bool:
    """Whether commits have been moved aside as damaged."""
    return any(folder.glob(".step-*.damaged"))


def _name_as_damaged(commit: Path) -> Path:
    """A free name for a damaged commit, so that it replaces no earlier one of the same step."""
    target, count = aside(commit, "damaged"), 1
    while target.exists():
        count += 1
        target = aside(commit, f"{count}.damaged")
    return target


def verified(commit: Path) -> Content:
    """The manifest of a commit, after checking the digests of all its files.

    Raises:
        ValueError: for a damaged commit, with the name of the first damaged file.
        FormatError: for a format that this version cannot read.
        OSError: when a file that exists cannot be read, also after some time.
    """
    try:
        content: Content = json.loads(_patiently(lambda: (commit / MANIFEST).read_text(encoding="utf-8")))
        version, files = content["format_version"], content["files"]
    except (*MISSING, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{MANIFEST} cannot be read: {type(error).__name__}") from None
    if version not in READABLE:
        raise FormatError(
            f"{commit} has format {version!s:.40}, and this version reads {', '.join(map(str, READABLE))}: "
            "continue with the version that wrote it, or choose another run.dir"
        )
    if not isinstance(files, dict) or not all(map(_is_below, files)):
        raise ValueError(f"{MANIFEST} does not name the commit's files")
    for name, written in files.items():
        try:
            digest = _patiently(partial(file_digest, commit / name))
        except MISSING as error:
            raise ValueError(f"{name} cannot be read: {error.strerror}") from None
        if digest != written:
            raise ValueError(f"{name} is not what was written")
    return content


def _is_below(name: str) -> bool:
    """Whether a file's name in a manifest is that of a file in the commit."""
    parts = Path(name).parts
    return not Path(name).is_absolute() and all(
        part != ".." and "\0" not in part and len(part.encode("utf-8", "replace")) < 256 for part in parts
    )


def _patiently(read: Callable[[], T]) -> T:
    """The result of ``read``, retried after transient errors."""
    for attempt in range(READ_ATTEMPTS - 1):
        try:
            return read()
        except MISSING:
            raise
        except OSError:
            time.sleep(FIRST_PAUSE * 2**attempt)
    return read()


def superseded(commits: list[Path], settings: CheckpointSettings) -> list[Path]:
    """Select the commits, given oldest first, that need not be kept."""
    every = settings.keep_every
    return [commit for commit in commits[: -settings.keep] if every is None or step_of(commit) % every]


def put_in_place(
    incomplete: Path, step: int, settings: CheckpointSettings, in_use: Collection[Path] = ()
) -> None:
    """Turn a complete temporary folder into a commit, then remove the commits that it supersedes.

    Args:
        in_use: commits that are not removed yet.
    """
    folder = incomplete.parent
    for inner in (*(path for path in incomplete.iterdir() if path.is_dir()), incomplete):
        flush(inner)
    target = folder / name(step)
    if target.exists():  # from before a rollback
        target.rename(aside(target, "replaced"))
    incomplete.rename(target)
    flush(folder)
    prune(folder, settings, in_use)  # the commit is durable


def prune(folder: Path, settings: CheckpointSettings, in_use: Collection[Path] = ()) -> list[int]:
    """Remove superseded commits that are not in use; returns their steps."""
    old = [commit for commit in superseded(commits(folder), settings) if commit not in in_use]
    for commit in old:
        commit.rename(aside(commit, "superseded"))  # as a half-removed one must not be a commit
    collect_garbage(folder)
    return [step_of(commit) for commit in old]


def collect_garbage(folder: Path) -> None:
    """Remove what a killed process left, and restore a commit whose replacement was interrupted."""
    for replaced in folder.glob(".step-*.replaced"):
        commit = replaced.with_name(replaced.name.removeprefix(".").removesuffix(".replaced"))
        if commit.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(commit)
    for kind in ("incomplete", "converted", "superseded"):
        for left_over in folder.glob(f".step-*.{kind}"):
            shutil.rmtree(left_over)


def require_space(folder: Path, size: int, commits: int) -> None:
    """Raise an ``OSError`` if the disk has no room for this number of commits of ``size`` bytes."""
    free = shutil.disk_usage(folder).free
    if free < size * commits:
        raise OSError(
            f"{folder} has {free / 2**20:,.1f} MiB free: no room for {commits} more "
            f"checkpoint{'s' if commits > 1 else ''} of {size / 2**20:,.1f} MiB"
        )


def commits(folder: Path) -> list[Path]:
    """All commits in a folder, oldest first; copies under other names, such as ``step-….bak``, are none."""
    return sorted((path for path in folder.glob("step-*") if is_name(path.name)), key=step_of)


def is_name(name: str) -> bool:
    """Whether this is the name of a step's commit."""
    return re.fullmatch(r"step-[0-9]{9,}", name) is not None


def name(step: int) -> str:
    """Name of the commit of a step."""
    return f"step-{step:09d}"


def step_of(commit: Path) -> int:
    """The step at which a commit was made."""
    return int(commit.name.removeprefix("step-"))


def aside(commit: Path, state: str) -> Path:
    """A sibling path of a commit that readers ignore (``.step-….<state>``)."""
    return commit.with_name(f".{commit.name}.{state}")
