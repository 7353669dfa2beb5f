"""Optimizer and learning-rate schedule of a run."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from odeformer.section import Section

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimSettings(Section):
    """Optimizer and learning-rate schedule."""

    name: Literal["adamw", "muon"] = "adamw"
    """``adamw``, or ``muon``: Muon for the matrices of the weight sets, whose updates are orthogonalized set
    by set, and AdamW for all other parameters. It needs zero.stage 0, 1 or 2."""
    learning_rate: float = Field(default=1e-3, gt=0, lt=10)
    """Peak AdamW learning rate of the weights."""
    muon_rate: float = Field(default=20.0, gt=0, le=1000)
    """Muon's learning rate as a multiple of ``learning_rate``."""
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    """Muon's decay rate for the running mean of the gradient."""
    coefficient_rate: float = Field(default=1.0, gt=0, le=100)
    """Learning rate of the coefficient functions as a multiple of ``learning_rate``."""
    warmup: float = Field(default=0.05, ge=0, le=1)
    """Fraction of the steps, at the start of the run, over which the learning rate rises linearly."""
    final: float = Field(default=0.1, ge=0, le=1)
    """Learning rate at the end of the schedule, as a fraction of ``learning_rate``."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """Learning-rate schedule after the warm-up. ``cosine`` decays until the end of the run. ``wsd`` (warmup,
    stable, decay) stays at the peak, so that a run can be extended, and decays linearly at the end."""
    decay: float = Field(default=0.2, gt=0, le=1)
    """Fraction of the steps, at the end of the run, over which ``wsd`` decays."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's decay rates for the running means of the gradient and of its square."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Weight decay, applied to matrices only."""
    clip: float | None = Field(default=None, gt=0)
    """Maximum gradient norm; larger gradients are scaled down to it. Default: 1 with ``adamw``; gradients are
    not clipped with ``muon``, whose updates do not depend on the gradient's norm."""

    @property
    def max_norm(self) -> float:
        """The maximum gradient norm, infinite if gradients are not clipped."""
        return math.inf if self.name == "muon" else self.clip or 1.0

    @model_validator(mode="after")
    def _muon_is_not_clipped(self) -> OptimSettings:
        if self.name == "muon" and self.clip is not None:
            raise ValueError("optim.clip cannot be used with optim.name muon, whose updates do not need it")
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> OptimSettings:
        if self.schedule == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(
                f"optim.warmup {self.warmup} and optim.decay {self.decay} are fractions of the steps: "
                "their sum must be at most 1"
            )
        return self
