"""Files that are on the disk, and known to be what was written; what several ranks do, as one thing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from torch import distributed as dist

from cluster.checkpoints.host_copy import HostCopies
from odeformer.files.digest import file_digest

T = TypeVar("T")


class TogetherError(Exception):
    """Some rank could not do its part; the message says which, and why. Raised on all ranks."""


def together(work: Callable[[], T], group: dist.ProcessGroup | None = None) -> list[T]:
    """Do a piece of work on every rank; what each of them gave, on all.

    Args:
        group: of all ranks; in a thread one that no other thread uses.

    Raises:
        TogetherError: on all ranks, when any rank's work raised an exception.
    """
    outcome: tuple[T | None, str | None]
    try:
        outcome = (work(), None)
    except Exception as error:  # noqa: BLE001 - the others wait for this rank's word
        outcome = (None, str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}")
    outcomes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(outcomes, outcome, group=group)
    for rank, (_, problem) in enumerate(outcomes):
        if problem is not None:
            raise TogetherError(problem if len(outcomes) == 1 else f"worker {rank}: {problem}")
    return [value for value, _ in outcomes]


def on_rank_0(work: Callable[[], T], group: dist.ProcessGroup | None = None) -> T:
    """As :func:`together`, of work that only rank 0 does; what it gave, on all ranks."""
    return together(lambda: work() if dist.get_rank() == 0 else None, group)[0]  # type: ignore[return-value]


class DurableFiles:
    """Stands in front of DeepSpeed's checkpoint engine: what it saves is copied, then written, afterwards.

    What cannot be copied is remembered instead of raised. DeepSpeed saves between barriers: the other ranks
    would wait for this one for ever.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._copies = HostCopies()
        self._states: dict[Path, Any] = {}
        self._problem: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Called by DeepSpeed for the folders of its files; they are made when the files are."""

    def save(self, state_dict: Any, path: str) -> None:
        """Called by DeepSpeed for each file that this rank writes."""
        if not self._states:
            self._copies.begin()
        try:
            self._states[Path(path)] = self._copies.of(state_dict)
        except Exception as error:  # noqa: BLE001 - raised by write()
            self._problem = error

    def copy(self) -> None:
        """Copy the tensors that were saved: they must not change before this has been done."""
        try:
            self._copies.fill()
        except Exception as error:  # noqa: BLE001 - raised by write()
            self._problem = error

    def write(self, folder: Path) -> dict[str, str]:
        """Write what was saved since the last call; the SHA-256 of each file, by its name in the folder.

        Raises:
            Exception: whatever kept one of them from being copied or written.
        """
        states, problem = self._states, self._problem
        self._states, self._problem = {}, None
        if problem is not None:
            raise problem
        return {str(path.relative_to(folder)): _write_state(path, state) for path, state in states.items()}


def _write_state(path: Path, state: Any) -> str:
    try:
        return write(path, lambda file: torch.save(state, file))
    except RuntimeError as error:
        # torch says that it lost its place in the file; why it did is the error before.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def write(path: Path, content: Callable[[BinaryIO], object]) -> str:
    """Write a file and flush it to the disk; its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        content(file)
        file.flush()
        os.fsync(file.fileno())
    return file_digest(path)
