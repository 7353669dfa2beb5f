"""Committed checkpoints: written beside, made durable, digested, then renamed. Readers see all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

from torch import distributed as dist

FORMAT_VERSION = 2


class Cursor(Protocol):
    """Where a run is in its data."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def save(engine: Any, stream: Cursor, step: int, folder: Path, keep: int) -> None:
    """Commit the engine's state and the stream's cursor as ``folder/step-…``. All ranks must call it."""
    target = folder / f"step-{step:09d}"
    beside = folder / f".{target.name}.incomplete"
    if dist.get_rank() == 0:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    dist.barrier()
    engine.save_checkpoint(str(beside), tag="state", save_latest=False)
    dist.barrier()
    if dist.get_rank() == 0:
        content = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "stream": stream.state_dict(),
            "workers": dist.get_world_size(),
            "stage": engine.zero_optimization_stage(),
            "files": _digests(beside),
        }
        _write_durably(beside / "commit.json", json.dumps(content, indent=2))
        shutil.rmtree(target, ignore_errors=True)
        beside.rename(target)
        _sync(folder)
        for old in _committed(folder)[:-keep]:
            shutil.rmtree(old)
    dist.barrier()


def restore(engine: Any, stream: Cursor, folder: Path) -> int:
    """Load the newest commit whose digests verify, on all ranks; the step it was made at, 0 if there is none.

    Raises:
        ValueError: when the commit was made by another number of workers or another ZeRO stage.
    """
    found: list[tuple[str, dict[str, Any]] | None] = [None]
    if dist.get_rank() == 0:
        found = [_newest_good(folder)]
    dist.broadcast_object_list(found, src=0)
    if found[0] is None:
        return 0
    name, content = found[0]
    here = (dist.get_world_size(), engine.zero_optimization_stage())
    if (content["workers"], content["stage"]) != here:
        raise ValueError(
            f"{folder / name} was written by {content['workers']} workers at ZeRO stage {content['stage']}, "
            f"which {here[0]} at stage {here[1]} cannot resume: use the same, or another run.dir"
        )
    loaded, _ = engine.load_checkpoint(str(folder / name), tag="state")
    if loaded is None:
        raise RuntimeError(f"DeepSpeed loaded nothing from {folder / name}")
    stream.load_state_dict(content["stream"])
    return int(content["step"])


def _newest_good(folder: Path) -> tuple[str, dict[str, Any]] | None:
    for commit in reversed(_committed(folder)):
        try:
            content = json.loads((commit / "commit.json").read_text())
            if content["format_version"] == FORMAT_VERSION and content["files"] == _digests(commit):
                return commit.name, content
        except (ValueError, KeyError, TypeError, OSError):
            pass
        print(f"checkpoint {commit} is damaged; falling back to the one before", flush=True)
        # Out of the way: a damaged commit must not count among those that are kept.
        commit.rename(commit.with_name(f".{commit.name}.damaged"))
    return None


def _committed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / "commit.json").is_file())


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the commit's own, and each file flushed to the disk."""
    digests = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "commit.json"):
        with path.open("rb") as file:
            digests[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    return digests


def _write_durably(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
