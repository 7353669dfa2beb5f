"""Committed checkpoints: written beside, made durable, digested, then renamed. Readers see all or nothing."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import distributed as dist

from cluster.settings import CheckpointSettings
from cluster.training import durable, universal
from cluster.training.durable import TogetherError, on_rank_0, together
from odeformer.folder import flush

FORMAT_VERSION = 2
STATE = "state"
"""The folder in a commit that DeepSpeed writes."""


class Cursor(Protocol):
    """Where a run is in its data."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Checkpoints:
    """The commits of a run. All ranks make one, and call each method at the same step.

    Args:
        report: called as ``report(event, step, values)`` with what becomes of a commit.

    Raises:
        TogetherError: when the disk has no room for as many commits as there will be.
    """

    def __init__(
        self,
        engine: Any,
        stream: Cursor,
        folder: Path,
        settings: CheckpointSettings,
        report: Callable[[str, int, Mapping[str, Any]], None],
    ) -> None:
        self._engine, self._stream, self._folder = engine, stream, folder
        self._settings, self._report = settings, report
        self._failed = 0
        self._files = durable.DurableFiles(engine.checkpoint_engine)
        engine.checkpoint_engine = self._files
        # A script to read the state with, which rank 0 would copy into every commit, undigested.
        engine._copy_recovery_script = lambda *_: None
        self._bytes = _bytes_of_commit(engine)
        on_rank_0(self._prepare)

    def save(self, step: int) -> bool:
        """Commit the engine's state and the stream's cursor as ``step-…``; whether that could be done.

        A commit that could not be written leaves nothing behind but the event ``checkpoint_failed``; those
        before it stay.

        Raises:
            RuntimeError: when so many failed in a row as the settings allow.
        """
        started = time.monotonic()
        try:
            self._write(step)
        except TogetherError as error:
            self._failed += 1
            self._report("checkpoint_failed", step, {"reason": str(error)})
            if self._failed < self._settings.max_failed:
                return False
            raise RuntimeError(
                f"{self._failed} checkpoints in a row could not be written, the last at step {step}: {error}"
            ) from None
        self._failed = 0
        self._report("checkpoint", step, {"checkpoint_seconds": time.monotonic() - started})
        return True

    def _write(self, step: int) -> None:
        beside = self._folder / f".{_name(step)}.incomplete"
        try:
            on_rank_0(lambda: self._make_room(beside))
            names = [] if self._engine.zero_optimization_stage() else universal.parameter_names(self._engine)
            self._engine.save_checkpoint(
                str(beside), tag=STATE, save_latest=False, client_state={universal.NAMES: names}
            )
            files = together(lambda: self._files.digests(beside))
            on_rank_0(lambda: self._commit(step, beside, files))
        except TogetherError:
            if dist.get_rank() == 0:
                shutil.rmtree(beside, ignore_errors=True)
            raise

    def _make_room(self, beside: Path) -> None:
        _collect_garbage(self._folder)
        _require_space(self._folder, self._bytes, commits=1)
        beside.mkdir(parents=True)

    def _commit(self, step: int, beside: Path, files: list[dict[str, str]]) -> None:
        content = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "stream": self._stream.state_dict(),
            "workers": dist.get_world_size(),
            "stage": self._engine.zero_optimization_stage(),
            "files": {name: value for of_rank in files for name, value in sorted(of_rank.items())},
        }
        durable.write(beside / "commit.json", json.dumps(content, indent=2))
        for folder in (beside / STATE, beside):
            flush(folder)
        target = self._folder / _name(step)
        if target.exists():  # from before a rollback
            target.rename(_aside(target, "replaced"))
        beside.rename(target)
        flush(self._folder)
        # It is there for good: now what it supersedes may go. Renamed first: half removed it is no commit.
        for old in superseded(_commits(self._folder), self._settings):
            old.rename(_aside(old, "superseded"))
        _collect_garbage(self._folder)

    def restore(self) -> int:
        """Load the newest commit whose digests verify; the step it was made at, 0 if there is none.

        The engine may have trained before, and the commit may be of other workers at another ZeRO stage. One
        that is damaged is moved aside and reported; without any good one nothing is loaded.
        """
        found = on_rank_0(lambda: newest_good(self._folder))
        for step, reason in found.damaged:
            self._report("checkpoint_damaged", step, {"reason": reason})
        if found.commit is None:
            return 0
        self._load(found.commit, found.content)
        self._stream.load_state_dict(found.content["stream"])
        return int(found.content["step"])

    def _load(self, commit: Path, content: dict[str, Any]) -> None:
        before = (content["workers"], content["stage"])
        here = (dist.get_world_size(), self._engine.zero_optimization_stage())
        # At stage 0 every worker holds everything: there is nothing to divide in another way.
        if here == before or here[1] == before[1] == 0:
            loaded, _ = self._engine.load_checkpoint(str(commit), tag=STATE)
            if loaded is None:
                raise RuntimeError(f"DeepSpeed loaded nothing from {commit}")
            return
        # No part of the commit, which stays what its digests say, and gone when it has been read.
        converted = _aside(commit, "converted")
        on_rank_0(lambda: universal.convert(commit / STATE, converted, stage=content["stage"]))
        together(lambda: universal.load(self._engine, converted))
        self._engine.global_steps = content["step"]
        on_rank_0(lambda: shutil.rmtree(converted))
        change = " to ".join(f"{workers} workers at ZeRO stage {stage}" for workers, stage in (before, here))
        self._report("checkpoint_converted", content["step"], {"reason": f"from {change}"})

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        _collect_garbage(self._folder)
        # While a commit is written, all those that it supersedes are still there.
        new = self._settings.keep + 1 - len(_commits(self._folder))
        _require_space(self._folder, self._bytes, commits=max(1, new))


class Found(NamedTuple):
    """The newest commit that verifies, what it says of itself, and step and reason of the damaged ones."""

    commit: Path | None
    content: dict[str, Any]
    damaged: list[tuple[int, str]]


def newest_good(folder: Path) -> Found:
    """Read every byte of the newest commit; while it is damaged, move it aside and take the one before."""
    _collect_garbage(folder)
    damaged: list[tuple[int, str]] = []
    for commit in reversed(_commits(folder)):
        try:
            return Found(commit, _verified(commit), damaged)
        except ValueError as error:
            damaged.append((_step(commit), f"{commit}: {error}"))
        # Out of the way: a damaged commit must not count among those that are kept.
        aside = _aside(commit, "damaged")
        shutil.rmtree(aside, ignore_errors=True)
        commit.rename(aside)
    return Found(None, {}, damaged)


def _verified(commit: Path) -> dict[str, Any]:
    """What a commit says of itself, when all of it is as it was written; ValueError names what is not."""
    try:
        content: dict[str, Any] = json.loads((commit / "commit.json").read_text())
        version, files = content["format_version"], content["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"commit.json cannot be read: {type(error).__name__}") from None
    if version != FORMAT_VERSION:
        raise ValueError(f"its format is {version}, not {FORMAT_VERSION}")
    for name, written in files.items():
        try:
            found = durable.digest(commit / name)
        except OSError as error:
            raise ValueError(f"{name} cannot be read: {error.strerror}") from None
        if found != written:
            raise ValueError(f"{name} is not what was written")
    return content


def superseded(commits: list[Path], settings: CheckpointSettings) -> list[Path]:
    """Of the commits, oldest first, those that need not stay."""
    every = settings.keep_every
    return [commit for commit in commits[: -settings.keep] if every is None or _step(commit) % every]


def _collect_garbage(folder: Path) -> None:
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


def _bytes_of_commit(engine: Any) -> int:
    """About what a commit takes: the weights as the model has them, and as AdamW does, with two moments."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in engine.module.parameters()]
    return sum(16 * size if trained else 4 * size for size, trained in sizes)


def _require_space(folder: Path, size: int, commits: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size * commits:
        raise OSError(
            f"{folder} has {free / 2**20:,.1f} MiB free: no room for {commits} more "
            f"checkpoint{'s' if commits > 1 else ''} of {size / 2**20:,.1f} MiB"
        )


def _commits(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _name(step: int) -> str:
    return f"step-{step:09d}"


def _step(commit: Path) -> int:
    return int(commit.name.removeprefix("step-"))


def _aside(commit: Path, state: str) -> Path:
    return commit.with_name(f".{commit.name}.{state}")
