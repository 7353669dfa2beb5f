"""What a pretraining run is made of. Plain values only: they travel as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from cluster.names import Name
from data.files import CACHE_BYTES
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


class DataSettings(Section):
    shards: str
    """A folder made by ``odeformer data build``, or its address, as ``s3://bucket/shards``."""
    sequence_length: int = Field(default=256, ge=2, le=2**24)
    """Tokens of a sequence, as the shards were built."""
    seed: int = 0
    """Of the order of the samples."""
    start: int = Field(default=0, ge=0)
    """Sequences of the order that are passed over: with ``init``, those that the model was trained on."""
    separate_documents: bool = False
    """No token sees another document's that happens to lie in its sequence."""
    skip_damaged: int = Field(default=0, ge=0)
    """So many damaged samples are left out before the run stops; at 0 the first one stops it."""
    cache_bytes: int = Field(default=CACHE_BYTES, ge=1)
    """What each worker's copies of remote shards may take, under ``run.dir``."""


class TrainSettings(Section):
    steps: Steps
    """Optimizer steps."""
    global_batch: Count
    """Sequences per optimizer step, over all workers."""
    micro_batch: Count
    """Sequences per forward pass on one worker."""
    solver: SolverName | None = None
    """When not given, ``damped_leapfrog`` for gradient ``reversible``; for the others the flavour's own:
    ``lie_trotter`` for ``llama``, ``euler`` else."""
    gradient: GradientName = "checkpoint"
    """How the backward pass gets the states: ``direct`` keeps them, ``checkpoint`` computes them again,
    ``reversible`` runs the solver backwards, ``adjoint`` solves the continuous adjoint equation."""
    segment: Layers = 1
    """Cells that gradient ``checkpoint`` computes again together: one state is kept for each segment."""
    depths: tuple[Layers, ...] = ()
    """Each batch's N is drawn from these, a repeated one more often; the model depth when empty."""
    vary_from: float = Field(default=0.0, ge=0, le=1)
    """The part of the steps, from the first on, that all run at the model depth, before ``depths`` begin."""
    jitter: float = Field(default=0.0, ge=0, lt=1)
    """How unequal the cells of a batch are: widths before normalisation are drawn from 1 ± this."""
    objective: Literal["one_depth", "two_depths", "distillation"] = "one_depth"
    """``one_depth``: a batch runs at its N. ``two_depths``: at the model depth and at its N, drawn from the
    other depths, for the mean of both losses. ``distillation``: the same, but the second pass learns the
    first one's predictions instead of the text."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the matrix products; weights, states and coefficients are float32 in any case."""
    validate_every: Steps = 100
    """Optimizer steps between two looks at the held-out text."""
    validation_sequences: Count = 64
    """Sequences of it, at most."""

    def solver_for(self, model: ModelConfig) -> str:
        """The solver that a run of this model has."""
        if self.solver is not None:
            return self.solver
        return gradient_named(self.gradient).default_solver or model.default_solver


class OptimSettings(Section):
    learning_rate: float = Field(default=1e-3, gt=0, lt=10)
    """Of AdamW, at its height: that of the weights."""
    coefficient_rate: float = Field(default=2.0, gt=0, le=100)
    """The learning rate of the coefficient functions, relative to that of the weights. Short runs, of a few
    tokens for each parameter, want more."""
    warmup: float = Field(default=0.05, ge=0, le=1)
    """The part of the steps over which the rate rises linearly."""
    final: float = Field(default=0.1, ge=0, le=1)
    """The part of the rate that the schedule ends at."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """After the warm-up: ``cosine`` falls to the end of the run; ``wsd`` stays at the full rate, so that a
    run can be made longer, and falls on a line over its last part."""
    decay: float = Field(default=0.2, gt=0, le=1)
    """The part of the steps, the last one, over which ``wsd`` falls."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's: what the running means of gradient and square keep at each step."""
    weight_decay: float = Field(default=0.1, ge=0)
    """On matrices only."""
    clip: float = Field(default=1.0, gt=0)
    """The largest gradient norm."""

    @model_validator(mode="after")
    def _schedule_fits(self) -> OptimSettings:
        if self.schedule == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(
                f"optim.warmup {self.warmup} and optim.decay {self.decay} are parts of the steps: "
                "together at most 1"
            )
        return self


class ZeroSettings(Section):
    stage: Literal[0, 1, 2, 3] = 1
    """What each worker holds only a part of: from 1 on the optimizer's state, from 2 on gradients, at 3
    weights."""
    offload_optimizer: Literal["none", "cpu"] = "none"
    """``cpu``: the optimizer's state and step are on the host, for a device that they do not fit on."""
    offload_parameters: Literal["none", "cpu"] = "none"
    """``cpu``: at stage 3 the worker's part of the weights is on the host between its uses, too."""
    param_persistence_threshold: int = Field(default=100_000, ge=0)
    """Stage 3 leaves parameters with fewer elements whole on every worker."""

    @model_validator(mode="after")
    def _offload_has_a_stage(self) -> ZeroSettings:
        if self.stage == 0 and self.offload_optimizer != "none":
            raise ValueError("zero.offload_optimizer needs zero.stage 1, 2 or 3")
        if self.stage != 3 and self.offload_parameters != "none":
            raise ValueError("zero.offload_parameters needs zero.stage 3, which alone shares weights out")
        return self


class GuardSettings(Section):
    """What is done about steps that go wrong: each is left out, too many in a row undo what came before."""

    max_skipped: int = Field(default=5, ge=1)
    """So many steps in a row whose loss or gradient is not finite, and the run goes back to its last
    checkpoint and on from there with the samples that follow."""
    max_rollbacks: int = Field(default=2, ge=0)
    """So many times it goes back to the same checkpoint before it stops."""
    on_spike: Literal["event", "skip"] = "event"
    """A loss far above the recent ones: ``event`` logs it, ``skip`` leaves the step out as well."""
    spike_window: int = Field(default=100, ge=10)
    """The recent losses: of so many steps."""
    spike_deviations: float = Field(default=10.0, gt=0)
    """How far: so many standard deviations above their median, taken from the median absolute deviation."""


class ClusterSettings(Section):
    workers: Count = 1
    """Processes that train together, each on a CPU or a GPU of its own."""
    min_workers: Count | None = None
    """With so many the run goes on while the cluster has no room for ``workers``; it waits for all of them
    when not given. Any number from here to ``workers`` that divides the global batch may be taken."""
    grow_after: float = Field(default=60.0, ge=0)
    """Seconds for which there must have been room for more workers before a run that goes on with fewer is
    started again on them, after its next commit."""
    cpus_per_worker: int = Field(default=1, ge=1, le=4096)
    """Logical CPUs that each asks for, and threads that it computes with."""
    gpus_per_worker: int = Field(default=0, ge=0, le=1)
    """1 to train on GPUs."""
    address: str | None = None
    """Of a running Ray cluster; a private one is started on this machine when not given."""
    max_failures: int = Field(default=3, ge=0)
    """So often the workers are started again after a failure, from the last committed checkpoint; after a
    later commit the count begins anew."""
    max_preemptions: int = Field(default=100, ge=0)
    """So often after a worker was asked to end by SIGTERM, which is no failure."""
    stuck_after: float = Field(default=600.0, ge=1)
    """Seconds without a sign of life, or without progress, after which a worker is taken for stuck, and
    killed. A micro-batch and a checkpoint must take less."""

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
    """How many of the last ones stay."""
    keep_every: Steps | None = None
    """Those of every so many steps stay for good, beside the last ones; a multiple of ``every``."""
    max_failed: int = Field(default=3, ge=1)
    """So many that cannot be written, one after the other, stop the run."""
    mirror: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*://.+$")] | None = None
    """A folder of this run alone in another store, as ``s3://bucket/runs/first``, to which finished ones are
    copied: a fresh machine goes on from there. Whoever may write to it may run code on the workers."""

    @model_validator(mode="after")
    def _kept_ones_are_made(self) -> CheckpointSettings:
        if self.keep_every is not None and self.keep_every % self.every:
            raise ValueError(
                f"checkpoint.keep_every {self.keep_every} is not a multiple of checkpoint.every {self.every}"
            )
        return self


class TrackingSettings(Section):
    uri: str | None = None
    """MLflow's; ``MLFLOW_TRACKING_URI``, else a SQLite file under ``runs/``, when not given."""
    experiment: str = "odeformer"
    """MLflow's, in which the run is."""
    register_as: Name | None = None
    """Register the final weights under this name, as a new version with the alias ``candidate``, and
    ``champion`` where there is none."""


class RunSettings(Section):
    dir: Path
    """Where everything the run writes goes; the same folder again resumes it."""
    seed: int = 0
    """Of the initial weights and of each batch's depth."""


class PretrainSettings(Section):
    """Everything ``odeformer pretrain`` needs."""

    model: ModelConfig
    """The shape, or ``preset: NAME`` and what differs from it."""
    init: str | None = None
    """Continue from these weights, ``models:/<name>@<alias>`` or a checkpoint folder, whose shape is then the
    model's, whatever ``model`` says. The shards must have been built with its tokenizer."""
    data: DataSettings
    train: TrainSettings
    optim: OptimSettings = OptimSettings()
    zero: ZeroSettings = ZeroSettings()
    guard: GuardSettings = GuardSettings()
    cluster: ClusterSettings = ClusterSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    tracking: TrackingSettings = TrackingSettings()
    run: RunSettings

    @model_validator(mode="after")
    def _batches_fit(self) -> PretrainSettings:
        train, cluster = self.train, self.cluster
        if not self.world_sizes:
            fewest = cluster.min_workers
            fewer = "" if fewest is None else f", nor with any number from cluster.min_workers {fewest} on"
            raise ValueError(
                f"train.global_batch {train.global_batch} is not a multiple of train.micro_batch × "
                f"cluster.workers = {train.micro_batch} × {cluster.workers}{fewer}"
            )
        return self

    @property
    def world_sizes(self) -> list[int]:
        """The numbers of workers that the run may have, the largest first: each takes whole micro-batches."""
        train, most = self.train, self.cluster.workers
        fewest = self.cluster.min_workers or most
        sizes = range(most, fewest - 1, -1)
        return [size for size in sizes if train.global_batch % (train.micro_batch * size) == 0]

    @model_validator(mode="after")
    def _gradient_fits(self) -> PretrainSettings:
        gradient, name = self.train.gradient, self.train.solver_for(self.model)
        method = gradient_named(gradient)
        if not method.goes_with(solver_named(name)):
            raise ValueError(
                f"train.gradient {gradient!r} needs {method.able_solvers()}; train.solver is {name!r}"
            )
        if method.regenerates_weights and self.zero.stage == 3:
            raise ValueError(
                f"train.gradient {gradient!r} makes weights again in the backward pass, when zero.stage 3 "
                "has released what they are made of: use zero.stage 2, or gradient 'checkpoint'"
            )
        if method.regenerates_weights and self.model.dropout_rate:
            raise ValueError(
                f"train.gradient {gradient!r} cannot repeat what dropout did at random: set model.dropout 0"
            )
        return self

    @model_validator(mode="after")
    def _depths_fit(self) -> PretrainSettings:
        if self.train.objective != "one_depth" and self.train.vary_from:
            raise ValueError(
                f"train.vary_from means one depth a step, train.objective {self.train.objective!r} at two"
            )
        if self.train.objective != "one_depth" and not set(self.train.depths) - {self.model.depth}:
            raise ValueError(
                f"train.objective {self.train.objective!r} needs a depth in train.depths besides "
                f"model.depth {self.model.depth}"
            )
        return self
