"""Workers of a run, and the resources of each."""

from __future__ import annotations

from pydantic import Field, model_validator

from odeformer.section import Count, Section


class ClusterSettings(Section):
    """Workers of a run, and the resources of each."""

    workers: Count = 1
    """Number of worker processes (data-parallel ranks), each on its own CPUs or GPU."""
    min_workers: Count | None = None
    """Minimum number of workers to run with while the cluster lacks resources for ``workers``. Numbers in
    between are used if they divide ``global_batch`` into whole micro-batches. Default: ``workers``."""
    grow_after: float = Field(default=60.0, ge=0)
    """Seconds for which resources for more workers must stay free before the run restarts with them."""
    cpus_per_worker: int = Field(default=1, ge=1, le=4096)
    """Logical CPUs and compute threads per worker."""
    gpus_per_worker: int = Field(default=0, ge=0, le=1)
    """GPUs per worker: 0 trains on CPUs, 1 on GPUs."""
    address: str | None = None
    """Address of a running Ray cluster. Default: start a private one on this machine."""
    max_failures: int = Field(default=3, ge=0)
    """Maximum number of restarts from the same checkpoint after failures."""
    max_preemptions: int = Field(default=100, ge=0)
    """Maximum number of restarts after SIGTERM, which does not count as a failure."""
    stuck_after: float = Field(default=600.0, ge=1)
    """Seconds without heartbeat or progress after which a worker is killed; must exceed the duration of any
    step or checkpoint."""

    @model_validator(mode="after")
    def _range_is_one(self) -> ClusterSettings:
        fewest = self.min_workers
        if fewest is not None and fewest > self.workers:
            raise ValueError(f"cluster.min_workers {fewest} is more than cluster.workers {self.workers}")
        return self
