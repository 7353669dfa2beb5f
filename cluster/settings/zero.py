"""How DeepSpeed ZeRO partitions the training state."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from odeformer.section import Section


class ZeroSettings(Section):
    """Partitioning of the training state over the workers, by DeepSpeed ZeRO."""

    stage: Literal[0, 1, 2, 3] = 1
    """ZeRO stage: 1 partitions the optimizer state over the workers, 2 also gradients, 3 also weights."""
    offload_optimizer: Literal["none", "cpu"] = "none"
    """``cpu`` keeps the optimizer state in host memory and runs the optimizer on the CPU."""
    offload_parameters: Literal["none", "cpu"] = "none"
    """``cpu`` keeps each worker's partition of the weights in host memory when not in use (stage 3 only)."""
    param_persistence_threshold: int = Field(default=100_000, ge=0)
    """Parameters with fewer elements than this are not partitioned at stage 3."""

    @model_validator(mode="after")
    def _offload_has_a_stage(self) -> ZeroSettings:
        if self.stage == 0 and self.offload_optimizer != "none":
            raise ValueError("zero.offload_optimizer needs zero.stage 1, 2 or 3")
        if self.stage != 3 and self.offload_parameters != "none":
            raise ValueError("zero.offload_parameters needs zero.stage 3, which alone partitions weights")
        return self
