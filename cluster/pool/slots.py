"""The slots of the cluster as the pool sees them: as many as there are ``finetune`` resources, kept warm."""

from __future__ import annotations

import logging
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from cluster.connection.connect import FINETUNE, worker_environment
from cluster.pool.slot import Slot

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
"""Ray lets an actor that asked for none see all of them."""

PAUSE_SECONDS = 5.0
"""After a slot that died before it was warm: where nothing can be imported, none is made again and again."""

logger = logging.getLogger(__name__)


class Ended(NamedTuple):
    """A process with jobs that is not there any more."""

    process: str
    code: int | None
    """Its exit code, negative where a signal ended it; none when it went with its slot."""


@dataclass
class _Held:
    actor: Any
    waited_for: Any
    """Of Ray: that it is warm, or that its process has ended."""
    is_warm: bool = False
    process: str | None = None


class Slots:
    """Ray actors, each with a ``finetune`` resource of its own and no other but a GPU where jobs want one.

    They take no CPUs: how much may run on a node is said by its ``finetune`` resources alone, and pretraining
    beside them does not lack a CPU.
    """

    def __init__(self, cpus_per_job: int, gpus_per_job: int) -> None:
        import ray

        self._ray, self._held = ray, list[_Held]()
        self._not_before = 0.0
        self._kind = ray.remote(Slot).options(
            num_cpus=0,
            num_gpus=gpus_per_job,
            resources={FINETUNE: 1},
            max_concurrency=4,  # one runs the process, the others are asked to end it
            runtime_env={"env_vars": worker_environment(cpus_per_job) | ({} if gpus_per_job else NO_GPU)},
        )

    def adjust(self) -> None:
        """Have as many as the cluster has room for; those that nodes take with them are made again."""
        there = int(self._ray.cluster_resources().get(FINETUNE, 0))
        if time.monotonic() < self._not_before:
            return
        for _ in range(there - len(self._held)):
            actor = self._kind.remote()
            self._held.append(_Held(actor, actor.wait_until_warm.remote()))
        for held in [h for h in self._held if not h.is_warm][: max(0, len(self._held) - there)]:
            self._drop(held)  # it waited for a place on a node that has gone

    def look(self) -> list[Ended]:
        """The processes that have ended since the last look."""
        waited_for = [held.waited_for for held in self._held if held.waited_for is not None]
        ready = self._ray.wait(waited_for, num_returns=len(waited_for), timeout=0)[0] if waited_for else []
        return [ended for held in list(self._held) if held.waited_for in ready for ended in self._take(held)]

    def _take(self, held: _Held) -> list[Ended]:
        process, held.process = held.process, None
        try:
            answer = self._ray.get(held.waited_for)
        except self._ray.exceptions.RayError as error:
            logger.warning("a slot is gone: %s", str(error).strip().splitlines()[-1])
            if not held.is_warm:  # it may not get further the next time
                self._not_before = time.monotonic() + PAUSE_SECONDS
            self._drop(held)
            return [] if process is None else [Ended(process, None)]
        held.waited_for, held.is_warm = None, True
        return [] if process is None else [Ended(process, answer)]

    @property
    def free(self) -> int:
        """How many are warm and have nothing to run."""
        return sum(held.is_warm and held.process is None for held in self._held)

    @property
    def starting(self) -> int:
        """How many are not warm yet, or have no node."""
        return sum(not held.is_warm for held in self._held)

    def run(self, order: dict[str, Any]) -> None:
        """Run a process in a free one; ``order`` as of :meth:`Slot.run`."""
        held = next(held for held in self._held if held.is_warm and held.process is None)
        held.process, held.waited_for = order["process"], held.actor.run.remote(order)

    def end(self, process: str, number: int = signal.SIGTERM) -> None:
        """Send a signal to a process."""
        for held in self._held:
            if held.process == process:
                held.actor.end.remote(process, number)

    def close(self) -> None:
        """Give all of them back."""
        for held in list(self._held):
            self._drop(held)

    def _drop(self, held: _Held) -> None:
        self._held.remove(held)
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(held.actor)
