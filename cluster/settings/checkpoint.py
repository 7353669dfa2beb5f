"""Frequency, number and mirror of a run's checkpoints."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from cluster.settings.bounds import Steps
from odeformer.section import Section

LASTING = (
    *("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "hdfs", "webhdfs"),
    *("file", "local", "sftp", "ssh", "ftp", "smb"),
)
"""Protocols of stores whose files outlive the machine or at least the process."""


def _lasting(address: str) -> str:
    kind, separator, place = address.partition("://")
    if kind not in LASTING or not separator or not place:
        raise ValueError(f"an address of a store that keeps files is expected, {', '.join(LASTING)}://…")
    return address


class CheckpointSettings(Section):
    """Frequency, number and mirror of a run's checkpoints."""

    every: Steps = 500
    """Optimizer steps between committed checkpoints."""
    keep: Steps = 2
    """Number of most recent checkpoints to keep."""
    keep_every: Steps | None = None
    """Also keep, permanently, the checkpoints at multiples of this step; must be a multiple of ``every``.
    Default: none."""
    max_failed: int = Field(default=3, ge=1)
    """Number of consecutive failures to write a checkpoint after which the run stops."""
    start_anew: bool = False
    """Train from step 0 if all checkpoints are damaged, instead of stopping the run."""
    mirror: Annotated[str, AfterValidator(_lasting)] | None = None
    """Remote folder, not shared with other runs, to which the newest checkpoint is copied beside training
    (``s3://bucket/runs/first``), so that the run can be resumed on another machine. Anyone with write access
    to it can run code on the workers."""

    @model_validator(mode="after")
    def _kept_ones_are_made(self) -> CheckpointSettings:
        every, forever = self.every, self.keep_every
        if forever is not None and forever % every:
            raise ValueError(f"checkpoint.keep_every {forever} is not a multiple of checkpoint.every {every}")
        return self
