"""Files that are on the disk, and known to be what was written; what several ranks do, as one thing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed as dist

from odeformer.folder import flush

T = TypeVar("T")


class TogetherError(Exception):
    """Some rank could not do its part; the message says which, and why. Raised on all ranks."""


def together(work: Callable[[], T]) -> list[T]:
    """Do a piece of work on every rank; what each of them gave, on all.

    Raises:
        TogetherError: on all ranks, when any rank's work raised an exception.
    """
    outcome: tuple[T | None, str | None]
    try:
        outcome = (work(), None)
    except Exception as error:  # noqa: BLE001 - the others wait for this rank's word
        outcome = (None, str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}")
    outcomes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(outcomes, outcome)
    for rank, (_, problem) in enumerate(outcomes):
        if problem is not None:
            raise TogetherError(problem if len(outcomes) == 1 else f"worker {rank}: {problem}")
    return [value for value, _ in outcomes]


def on_rank_0(work: Callable[[], T]) -> T:
    """As :func:`together`, of work that only rank 0 does; what it gave, on all ranks."""
    return together(lambda: work() if dist.get_rank() == 0 else None)[0]  # type: ignore[return-value]


class DurableFiles:
    """Stands in front of DeepSpeed's checkpoint engine: its files are flushed to the disk, and digested.

    A file that cannot be written is remembered instead of raised. DeepSpeed saves between barriers: the other
    ranks would wait for this one for ever.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._digests: dict[str, str] = {}
        self._problem: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def save(self, state_dict: Any, path: str) -> None:
        """Called by DeepSpeed for each file that this rank writes."""
        if self._problem is not None:
            return
        try:
            with Path(path).open("wb") as file:
                torch.save(state_dict, file)
                file.flush()
                os.fsync(file.fileno())
            self._digests[path] = digest(Path(path))
        except Exception as error:  # noqa: BLE001 - raised by digests()
            # torch says that it lost its place in the file; why it did is the error before.
            self._problem = error.__context__ if isinstance(error.__context__, OSError) else error

    def digests(self, folder: Path) -> dict[str, str]:
        """SHA-256 of each file in the folder that was saved since the last call.

        Raises:
            Exception: whatever kept one of them from being written.
        """
        digests, problem = self._digests, self._problem
        self._digests, self._problem = {}, None
        if problem is not None:
            raise problem
        return {str(Path(path).relative_to(folder)): value for path, value in digests.items()}


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, text: str) -> None:
    """Write a file and flush it to the disk."""
    path.write_text(text)
    flush(path)
