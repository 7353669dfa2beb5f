"""A folder of commits: which are there, which is good, which may go, what a killed process has left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from cluster.settings import CheckpointSettings
from odeformer.files.atomic import flush
from odeformer.files.digest import file_digest

FORMAT_VERSION = 3
READABLE = (2, 3)
"""Format 2 lacks random states and the id of the MLflow run."""
MANIFEST = "commit.json"


class Found(NamedTuple):
    """The newest commit that verifies, what it says of itself, and step and reason of the damaged ones."""

    commit: Path | None
    content: dict[str, Any]
    damaged: list[tuple[int, str]]


class FormatError(Exception):
    """A commit of a format that is not known: not damaged, and not to be passed over."""


def newest_good(folder: Path) -> Found:
    """Read every byte of the newest commit; while it is damaged, move it aside and take the one before.

    Raises:
        FormatError: when the newest one that is not damaged is of a format that this version cannot read.
    """
    collect_garbage(folder)
    damaged: list[tuple[int, str]] = []
    for commit in reversed(commits(folder)):
        try:
            return Found(commit, verified(commit), damaged)
        except ValueError as error:
            damaged.append((step_of(commit), f"{commit}: {error}"))
        # Out of the way: a damaged commit must not count among those that are kept.
        put_aside = aside(commit, "damaged")
        shutil.rmtree(put_aside, ignore_errors=True)
        commit.rename(put_aside)
    return Found(None, {}, damaged)


def verified(commit: Path) -> dict[str, Any]:
    """What a commit says of itself, when all of it is as it was written.

    Raises:
        ValueError: naming what is not.
        FormatError: when it is of a format that this version cannot read.
    """
    try:
        content: dict[str, Any] = json.loads((commit / MANIFEST).read_text())
        version, files = content["format_version"], content["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{MANIFEST} cannot be read: {type(error).__name__}") from None
    if version not in READABLE:
        raise FormatError(
            f"{commit} is of format {version}, and this version reads {', '.join(map(str, READABLE))}: go on "
            "with the version that wrote it, or choose another run.dir"
        )
    for name, written in files.items():
        try:
            found = file_digest(commit / name)
        except OSError as error:
            raise ValueError(f"{name} cannot be read: {error.strerror}") from None
        if found != written:
            raise ValueError(f"{name} is not what was written")
    return content


def superseded(commits: list[Path], settings: CheckpointSettings) -> list[Path]:
    """Of the commits, oldest first, those that need not stay."""
    every = settings.keep_every
    return [commit for commit in commits[: -settings.keep] if every is None or step_of(commit) % every]


def put_in_place(beside: Path, step: int, settings: CheckpointSettings) -> None:
    """Make a commit of a folder with all of its files; then remove what it supersedes."""
    folder = beside.parent
    for inner in (*(path for path in beside.iterdir() if path.is_dir()), beside):
        flush(inner)
    target = folder / name(step)
    if target.exists():  # from before a rollback
        target.rename(aside(target, "replaced"))
    beside.rename(target)
    flush(folder)
    # It is there for good: now what it supersedes may go. Renamed first: half removed it is no commit.
    for old in superseded(commits(folder), settings):
        old.rename(aside(old, "superseded"))
    collect_garbage(folder)


def collect_garbage(folder: Path) -> None:
    """Remove what a killed process left; a commit that was being replaced is there again."""
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
    """Raise an ``OSError`` where the disk has no room for so many commits of so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < size * commits:
        raise OSError(
            f"{folder} has {free / 2**20:,.1f} MiB free: no room for {commits} more "
            f"checkpoint{'s' if commits > 1 else ''} of {size / 2**20:,.1f} MiB"
        )


def commits(folder: Path) -> list[Path]:
    """All that are there, oldest first."""
    return sorted(folder.glob("step-*"))


def name(step: int) -> str:
    """Of the commit of a step."""
    return f"step-{step:09d}"


def step_of(commit: Path) -> int:
    """That a commit was made at."""
    return int(commit.name.removeprefix("step-"))


def aside(commit: Path, state: str) -> Path:
    """Beside a commit, a folder that is none."""
    return commit.with_name(f".{commit.name}.{state}")
