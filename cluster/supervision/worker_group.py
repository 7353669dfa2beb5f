"""A Ray Train worker group: one attempt at a run, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend

from cluster.connection import credentials
from cluster.connection.connect import worker_environment
from cluster.runs import heartbeat, preemption
from cluster.settings import PretrainSettings
from cluster.supervision import orphans
from cluster.supervision.room import worker_resources

Work = Callable[[dict[str, Any]], None]
"""Function that each worker executes with ``{"settings": …}``, in an initialized process group."""


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        # Only here does code run in the workers' main threads, where signals can be handled. The training
        # function runs in a thread of its own.
        worker_group.execute(preemption.listen)
        worker_group.execute(orphans.end_with_parent)
        super().on_start(worker_group, backend_config)


@dataclass
class _Config(TorchConfig):
    @property
    def backend_cls(self) -> type[_Backend]:
        return _Backend


class _Trainer(TorchTrainer):
    def _create_default_callbacks(self) -> list[Any]:
        # Ray Data is not used, and its manager would be one more process of 200 MB for each group.
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ != "DatasetsCallback"]


class WorkerGroup:
    """A started group of workers."""

    def __init__(self, work: Work, settings: PretrainSettings, workers: int, heartbeats: Path) -> None:
        self.error: BaseException | None = None
        """The exception that the group ended with, if any."""
        self._trainer = _trainer(work, settings, workers, heartbeats)
        # Ray's own fit() would take over Ctrl-C for good when called from the main thread.
        self._thread = threading.Thread(target=self._fit, daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the group has not ended yet."""
        return self._thread.is_alive()

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # noqa: BLE001 - read by whoever waits for the thread
            self.error = error


def _trainer(work: Work, settings: PretrainSettings, workers: int, heartbeats: Path) -> _Trainer:
    cluster, run = settings.cluster, settings.run.dir
    # In the function, not in its configuration, which Ray shows and logs: addresses may hold passwords.
    config = {"settings": settings.model_dump(mode="json")}

    def watched_work() -> None:
        credentials.take(run)
        node = ray.get_runtime_context().get_node_id()
        with heartbeat.beating(heartbeats, ray.train.get_context().get_world_rank(), node):
            work(config)

    return _Trainer(
        watched_work,
        torch_config=_Config(backend="nccl" if cluster.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=worker_resources(cluster),
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(settings.run.dir),
            # The supervisor restarts groups: only it knows what a failure means for this run.
            failure_config=FailureConfig(
                max_failures=0, max_preemption_failures=0, controller_failure_limit=0
            ),
            worker_runtime_env={"env_vars": worker_environment(cluster.cpus_per_worker)},
        ),
    )
