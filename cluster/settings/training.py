"""Settings of training itself: objective, optimizer, ZeRO and guards, shared with fine-tuning.

The docstring under each field is its entry on the settings page and its comment in ``odeformer init``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from odeformer.config import ModelConfig
from odeformer.gradients import GradientName, gradient_named
from odeformer.section import Count, Layers, Section
from odeformer.solvers import solver_named


def _known_solver(name: str) -> str:
    solver_named(name)
    return name


SolverName = Annotated[str, AfterValidator(_known_solver)]
Steps = Annotated[int, Field(ge=1, le=10**9)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainSettings(Section):
    steps: Steps
    """Number of optimizer steps in the whole run."""
    global_batch: Count
    """Sequences per optimizer step, over all workers."""
    micro_batch: Count
    """Sequences per forward pass on one worker."""
    solver: SolverName | None = None
    """ODE solver. Default: ``damped_leapfrog`` for gradient ``reversible``; otherwise the flavour's own,
    ``lie_trotter`` for ``llama`` and ``euler`` for ``neox``."""
    gradient: GradientName = "checkpoint"
    """How the backward pass obtains the states of the forward pass: ``direct`` stores all of them,
    ``checkpoint`` recomputes them segment by segment, ``reversible`` runs the solver backwards, ``adjoint``
    solves the continuous adjoint equation."""
    segment: Layers = 1
    """Cells per segment of gradient ``checkpoint``, which stores one state per segment."""
    depths: tuple[Layers, ...] = ()
    """Depths N to train at: each batch draws one of them, and repeated values are drawn more often. Empty:
    always the model depth."""
    vary_from: float = Field(default=0.0, ge=0, le=1)
    """Fraction of the steps to train at the model depth before ``depths`` are drawn from."""
    jitter: float = Field(default=0.0, ge=0, lt=1)
    """Relative variation of the cell widths h in a batch: drawn from 1 ± ``jitter``, then normalised."""
    objective: Literal["one_depth", "two_depths", "distillation"] = "one_depth"
    """Training objective. ``one_depth``: each batch runs at one depth N. ``two_depths``: it runs at the model
    depth and at one other depth, and both losses are averaged. ``distillation``: the same two passes, but
    the second one learns the first one's predictions instead of the text."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Data type of the matmuls. Weights, states and coefficient functions are always float32."""
    validate_every: Steps = 100
    """Optimizer steps between two validations on the held-out text."""
    validation_sequences: Count = 64
    """Maximum number of held-out sequences per validation."""

    def solver_for(self, model: ModelConfig) -> str:
        """Name of the solver that a run of this model uses."""
        if self.solver is not None:
            return self.solver
        return gradient_named(self.gradient).default_solver or model.default_solver


class OptimSettings(Section):
    learning_rate: float = Field(default=1e-3, gt=0, lt=10)
    """Peak AdamW learning rate of the weights."""
    coefficient_rate: float = Field(default=2.0, gt=0, le=100)
    """Learning rate of the coefficient functions, relative to ``learning_rate``. Short runs, with a few
    tokens per parameter, need a larger value."""
    warmup: float = Field(default=0.05, ge=0, le=1)
    """Fraction of the steps over which the learning rate rises linearly."""
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
    """AdamW's weight decay, applied to matrices only."""
    clip: float = Field(default=1.0, gt=0)
    """Maximum gradient norm; larger gradients are scaled down to it."""

    @model_validator(mode="after")
    def _schedule_fits(self) -> OptimSettings:
        if self.schedule == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(
                f"optim.warmup {self.warmup} and optim.decay {self.decay} are fractions of the steps: "
                "their sum must be at most 1"
            )
        return self


class ZeroSettings(Section):
    stage: Literal[0, 1, 2, 3] = 1
    """ZeRO stage: what is partitioned over the workers. 0: nothing; 1: the optimizer state; 2: gradients as
    well; 3: weights as well."""
    offload_optimizer: Literal["none", "cpu"] = "none"
    """``cpu`` keeps the optimizer state in host memory and runs the optimizer there."""
    offload_parameters: Literal["none", "cpu"] = "none"
    """``cpu`` keeps each worker's partition of the weights in host memory while unused (stage 3 only)."""
    param_persistence_threshold: int = Field(default=100_000, ge=0)
    """Stage 3 does not partition parameters with fewer elements than this."""

    @model_validator(mode="after")
    def _offload_has_a_stage(self) -> ZeroSettings:
        if self.stage == 0 and self.offload_optimizer != "none":
            raise ValueError("zero.offload_optimizer needs zero.stage 1, 2 or 3")
        if self.stage != 3 and self.offload_parameters != "none":
            raise ValueError("zero.offload_parameters needs zero.stage 3, which alone partitions weights")
        return self


class GuardSettings(Section):
    """Protection against bad steps: each is skipped, and too many in a row cause a rollback."""

    max_skipped: int = Field(default=5, ge=1)
    """Consecutive skipped steps (loss or gradient not finite) that cause a rollback: the run reloads its
    last checkpoint and continues from there with the samples that follow."""
    max_rollbacks: int = Field(default=2, ge=0)
    """Maximum number of rollbacks to the same checkpoint before the run stops."""
    on_spike: Literal["event", "skip"] = "event"
    """Reaction to a loss spike: ``event`` only logs it, ``skip`` also skips the step."""
    spike_window: int = Field(default=100, ge=10)
    """Number of recent losses that a loss is compared with to detect a spike."""
    spike_deviations: float = Field(default=10.0, gt=0)
    """A loss this many standard deviations (estimated from the median absolute deviation) above the window's
    median is a spike."""
