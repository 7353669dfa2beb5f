"""The pool's slots: one Ray actor with a warm process for each ``finetune`` resource of the cluster."""

from __future__ import annotations

import logging
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cluster.connection.connect import FINETUNE, worker_environment
from cluster.pool.slot import Order, Slot

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
"""Environment that hides the GPUs: Ray lets an actor that requested none see all of them."""

PAUSE_SECONDS = 5.0
"""Delay after a slot died before it was warm: a broken installation must not respawn slots in a loop."""

logger = logging.getLogger(__name__)


class Ended(NamedTuple):
    """A process with jobs that has ended."""

    process: str
    code: int | None
    """Exit code, negative if a signal ended it; ``None`` if it was lost with its slot."""
    is_too_large: bool = False
    """Whether it was killed because it used more memory than it may."""


@dataclass
class _Held:
    actor: Any
    pending: Any
    """Ray reference that is ready once the actor is warm, or once its process has ended."""
    is_warm: bool = False
    process: str | None = None


class Slots:
    """Ray actors that each hold one ``finetune`` resource, plus a GPU if jobs use one.

    They request no CPUs: the ``finetune`` resources alone limit the jobs of a node, so that pretraining on
    the same node does not lack a CPU.

    Args:
        folder: the pool's folder, from which they take its credentials.
    """

    def __init__(self, cpus_per_job: int, gpus_per_job: int, folder: Path) -> None:
        import ray

        self._ray, self._held = ray, list[_Held]()
        self._not_before, self._folder = 0.0, str(folder)
        self._kind = ray.remote(Slot).options(
            num_cpus=0,
            num_gpus=gpus_per_job,
            resources={FINETUNE: 1},
            max_concurrency=4,  # one call runs the process, the others signal it
            runtime_env={"env_vars": worker_environment(cpus_per_job) | ({} if gpus_per_job else NO_GPU)},
        )

    def adjust(self) -> None:
        """Match the number of slots to the cluster's resources, replacing those lost with their nodes."""
        wanted = int(self._ray.cluster_resources().get(FINETUNE, 0))
        if time.monotonic() < self._not_before:
            return
        for _ in range(wanted - len(self._held)):
            actor = self._kind.remote(self._folder)
            self._held.append(_Held(actor, actor.wait_until_warm.remote()))
        for held in [h for h in self._held if not h.is_warm][: max(0, len(self._held) - wanted)]:
            self._drop(held)  # it waited for a node that has gone

    def look(self) -> list[Ended]:
        """The processes that have ended since the last call."""
        pending = [held.pending for held in self._held if held.pending is not None]
        ready = self._ray.wait(pending, num_returns=len(pending), timeout=0)[0] if pending else []
        ended = [self._take(held) for held in list(self._held) if held.pending in ready]
        return [process for process in ended if process is not None]

    def _take(self, held: _Held) -> Ended | None:
        process, held.process = held.process, None
        try:
            end = self._ray.get(held.pending)
        except self._ray.exceptions.RayError as error:
            logger.warning("a slot is gone: %s", str(error).strip().splitlines()[-1])
            if not held.is_warm:  # the next one may fail as well
                self._not_before = time.monotonic() + PAUSE_SECONDS
            self._drop(held)
            return None if process is None else Ended(process, None)
        held.pending, held.is_warm = None, True
        return None if process is None else Ended(process, *end)

    @property
    def free(self) -> int:
        """Number of warm slots that run nothing."""
        return sum(held.is_warm and held.process is None for held in self._held)

    @property
    def starting(self) -> int:
        """Number of slots that are not warm yet, or have no node."""
        return sum(not held.is_warm for held in self._held)

    def run(self, order: Order) -> None:
        """Run a process in a free slot."""
        held = next(held for held in self._held if held.is_warm and held.process is None)
        held.process, held.pending = order["process"], held.actor.run.remote(order)

    def end(self, process: str, number: int = signal.SIGTERM) -> None:
        """Send a signal to a process."""
        for held in self._held:
            if held.process == process:
                held.actor.end.remote(process, number)

    def close(self) -> None:
        """Release all slots."""
        for held in list(self._held):
            self._drop(held)

    def _drop(self, held: _Held) -> None:
        self._held.remove(held)
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(held.actor)
