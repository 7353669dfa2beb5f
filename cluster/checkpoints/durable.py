"""Durable files with digests, and work that succeeds or fails on all ranks together."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from torch import distributed as dist

from cluster.checkpoints.host_copy import HostCopies
from odeformer.files.atomic import named
from odeformer.files.digest import file_digest

T = TypeVar("T")


class TogetherError(Exception):
    """Work failed on some rank; raised on all ranks, with the rank and the cause."""


class StorageError(TogetherError, OSError):
    """Some rank could not read or write; restarting the workers may help."""


def together(work: Callable[[], T], group: dist.ProcessGroup | None = None) -> list[T]:
    """Execute ``work`` on every rank, and return the results of all ranks on each of them.

    Args:
        group: process group of all ranks; a thread needs one that no other thread uses.

    Raises:
        TogetherError: on all ranks, when any rank's work raised an exception; a :class:`StorageError` for
            an error of the storage.
    """
    outcome: tuple[T | None, str | None, type[TogetherError]]
    try:
        outcome = (work(), None, TogetherError)
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError)
        outcome = (None, str(error), TogetherError if is_missing else StorageError)
    except Exception as error:  # noqa: BLE001 - the other ranks wait for this one
        outcome = (None, f"{type(error).__name__}: {error}", TogetherError)
    outcomes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(outcomes, outcome, group=group)
    for rank, (_, problem, kind) in enumerate(outcomes):
        if problem is not None:
            raise kind(problem if len(outcomes) == 1 else f"worker {rank}: {problem}")
    return [value for value, *_ in outcomes]


def on_rank_0(work: Callable[[], T], group: dist.ProcessGroup | None = None) -> T:
    """Like :func:`together`, but only rank 0 does the work; returns its result on all ranks."""
    return together(lambda: work() if dist.get_rank() == 0 else None, group)[0]  # type: ignore[return-value]


class DurableFiles:
    """Wraps DeepSpeed's checkpoint engine: what it saves is copied and written later.

    Exceptions while copying are raised by :meth:`write`. DeepSpeed saves between barriers, where a raised
    exception would make the other ranks wait forever.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._copies = HostCopies()
        self._states: dict[Path, Any] = {}
        self._problem: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing: :meth:`write` makes the folders. Called by DeepSpeed."""

    def begin(self) -> None:
        """Begin a new checkpoint, and forget what was saved for one that failed."""
        self._states, self._problem = {}, None
        self._copies.begin()

    def save(self, state_dict: Any, path: str) -> None:
        """Record the state to write to a file. Called by DeepSpeed for each file of this rank."""
        try:
            self._states[Path(path)] = self._copies.of(state_dict)
        except Exception as error:  # noqa: BLE001 - raised by write()
            self._problem = error

    def copy(self) -> None:
        """Copy the recorded tensors, which must not change before."""
        try:
            self._copies.fill()
        except Exception as error:  # noqa: BLE001 - raised by write()
            self._problem = error

    def write(self, folder: Path) -> dict[str, str]:
        """Write everything that was saved since :meth:`begin`.

        Returns:
            The SHA-256 of each file, by its name in the folder.

        Raises:
            Exception: any error of copying or writing.
        """
        if self._problem is not None:
            raise self._problem
        return {
            str(path.relative_to(folder)): _write_state(path, state) for path, state in self._states.items()
        }


def _write_state(path: Path, state: Any) -> str:
    with named(path):
        try:
            return write(path, lambda file: torch.save(state, file))
        except RuntimeError as error:
            # torch complains about its position in the file; the cause is the exception before.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def write(path: Path, content: Callable[[BinaryIO], object]) -> str:
    """Write a file durably; returns its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with named(path), path.open("wb") as file:
        content(file)
        file.flush()
        os.fsync(file.fileno())
    return file_digest(path)
