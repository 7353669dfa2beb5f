"""Settings of a run's surroundings: data, cluster, checkpoints, tracking, folder.

The docstring under each field is its entry on the settings page and its comment in ``odeformer init``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from cluster.names import Name
from cluster.settings.training import Steps
from data.files import CACHE_BYTES
from odeformer.section import Count, Section


class DataSettings(Section):
    shards: str
    """Folder made by ``odeformer data build``, local or remote (``s3://bucket/shards``)."""
    sequence_length: int = Field(default=256, ge=2, le=2**24)
    """Tokens per sequence; must match the shards."""
    seed: int = 0
    """Seed of the sample order."""
    start: int = Field(default=0, ge=0)
    """Number of sequences to skip at the start of the sample order. With ``init``: the number that the
    model has already been trained on."""
    separate_documents: bool = False
    """Mask attention between documents that share a sequence."""
    skip_damaged: int = Field(default=0, ge=0)
    """Maximum number of damaged samples to skip before the run stops; 0 stops at the first."""
    cache_bytes: int = Field(default=CACHE_BYTES, ge=1)
    """Maximum size in bytes of each worker's cache of remote shards, under ``run.dir``."""


class ClusterSettings(Section):
    workers: Count = 1
    """Number of worker processes (data-parallel ranks), each on its own CPUs or GPU."""
    min_workers: Count | None = None
    """Minimum number of workers to continue with while the cluster has no room for ``workers``. Any number
    between the two that divides the global batch may be used. Default: wait for all workers."""
    grow_after: float = Field(default=60.0, ge=0)
    """Seconds that room for more workers must last before a run with fewer than ``workers`` is restarted on
    them, after its next checkpoint."""
    cpus_per_worker: int = Field(default=1, ge=1, le=4096)
    """Logical CPUs, and compute threads, per worker."""
    gpus_per_worker: int = Field(default=0, ge=0, le=1)
    """GPUs per worker: 0 trains on CPUs, 1 on GPUs."""
    address: str | None = None
    """Address of a running Ray cluster. Default: start a private one on this machine."""
    max_failures: int = Field(default=3, ge=0)
    """Maximum restarts from the last checkpoint after failures. The count is reset by a new checkpoint."""
    max_preemptions: int = Field(default=100, ge=0)
    """Maximum restarts after SIGTERM; these do not count as failures."""
    stuck_after: float = Field(default=600.0, ge=1)
    """Seconds without a heartbeat or progress after which a worker counts as stuck and is killed. A
    micro-batch and a checkpoint must take less."""

    @model_validator(mode="after")
    def _range_is_one(self) -> ClusterSettings:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(
                f"cluster.min_workers {self.min_workers} is more than cluster.workers {self.workers}"
            )
        return self


class CheckpointSettings(Section):
    every: Steps = 500
    """Optimizer steps between committed checkpoints."""
    keep: Steps = 2
    """Number of latest checkpoints to keep."""
    keep_every: Steps | None = None
    """Also keep every checkpoint at a multiple of this step permanently; a multiple of ``every``."""
    max_failed: int = Field(default=3, ge=1)
    """Consecutive checkpoints that cannot be written before the run stops."""
    mirror: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*://.+$")] | None = None
    """Remote folder, used by this run only, that each checkpoint is copied to (``s3://bucket/runs/first``).
    A new machine resumes from it. Anyone with write access to it can run code on the workers."""

    @model_validator(mode="after")
    def _kept_ones_are_made(self) -> CheckpointSettings:
        if self.keep_every is not None and self.keep_every % self.every:
            raise ValueError(
                f"checkpoint.keep_every {self.keep_every} is not a multiple of checkpoint.every {self.every}"
            )
        return self


class TrackingSettings(Section):
    uri: str | None = None
    """MLflow tracking URI. Default: ``MLFLOW_TRACKING_URI``, else a SQLite file under ``runs/``."""
    experiment: str = "odeformer"
    """MLflow experiment that the run belongs to."""
    register_as: Name | None = None
    """Register the final weights under this name, as a new version with the alias ``candidate`` (and
    ``champion``, if there is no champion yet)."""


class RunSettings(Section):
    dir: Path
    """Folder for everything that the run writes. A run in an existing folder is resumed."""
    seed: int = 0
    """Seed of the initial weights and of the depth of each batch."""
