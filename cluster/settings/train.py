"""How long a run trains, on what batches, and by which numerical method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from cluster.settings.bounds import Steps
from odeformer.config import ModelConfig
from odeformer.gradients import GradientName, gradient_named
from odeformer.section import Count, Layers, Section, known
from odeformer.solvers import solver_named

SolverName = Annotated[str, known(solver_named)]


def _as_word(value: object) -> object:
    """YAML reads an unquoted ``on`` as true and ``off`` as false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class TrainSettings(Section):
    """Length, batches and numerical method of training."""

    removed: ClassVar[Mapping[str, object]] = {"jitter": 0.0}

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
    """How the backward pass obtains the states: ``direct`` stores them, ``checkpoint`` recomputes them,
    ``reversible`` runs the solver backwards, ``adjoint`` solves the continuous adjoint equation."""
    segment: Layers = 1
    """Cells per segment of gradient ``checkpoint``, which stores one state per segment."""
    depths: tuple[Layers, ...] = ()
    """Depths N, one of which is drawn for each batch; a repeated one is drawn more often. Default: always the
    model depth."""
    vary_from: float = Field(default=0.0, ge=0, le=1)
    """Fraction of the steps, at the start of the run, that use the model depth instead of ``depths``."""
    objective: Literal["one_depth", "two_depths", "distillation"] = "one_depth"
    """``one_depth``: each batch runs at one depth N. ``two_depths``: it runs at the model depth and at one
    other depth, and the two losses are averaged. ``distillation``: the same two passes, but the targets of
    the second are the predictions of the first."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Data type of the matmuls. Weights, states and coefficient functions are always float32."""
    compile: Annotated[Literal["auto", "on", "off"], BeforeValidator(_as_word)] = "auto"
    """Whether ``torch.compile`` compiles the transformer block and the loss. ``auto`` does where a C++
    compiler is found and the run is long enough to pay for the minute that it takes."""
    validate_every: Steps = 100
    """Optimizer steps between validations."""
    validation_sequences: Count = 64
    """Maximum number of held-out sequences per validation."""
    trace: Annotated[str, Field(pattern=r"^[1-9]\d{0,8}-[1-9]\d{0,8}$")] | None = None
    """Steps to trace with torch's profiler, the first and the last, such as ``10-12``. The traces of all
    workers, on GPUs with a snapshot of the memory, become artifacts of the MLflow run. Default: none."""
    replay_every: Steps | None = None
    """Number of steps after which a micro-batch is run twice to compare its gradients bit by bit, so that
    silent data corruption stops the run before the update (ZeRO stages 0 to 2). Default: never."""

    @model_validator(mode="after")
    def _traces_some_steps(self) -> TrainSettings:
        if self.trace is not None:
            first, last = map(int, self.trace.split("-"))
            if first > last:
                raise ValueError(
                    f"train.trace {self.trace}: the first step comes before the last, as in 10-12"
                )
        return self

    @model_validator(mode="after")
    def _compiles(self) -> TrainSettings:
        if self.compile == "on" and self.gradient == "adjoint":
            raise ValueError("train.compile on cannot be used with gradient adjoint: choose off or auto")
        return self

    def solver_for(self, model: ModelConfig) -> str:
        """Name of the solver that a run of this model uses."""
        return self.solver or gradient_named(self.gradient).default_solver or model.default_solver
