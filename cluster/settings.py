"""Settings of a pretraining run. The docstring under a field is its documentation, also for the user."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from cluster.data_settings import DataSettings
from cluster.names import ModelName
from cluster.teacher_settings import TeacherSettings
from odeformer.config import ModelConfig
from odeformer.gradients import GradientName, gradient_named
from odeformer.section import Count, Layers, Section
from odeformer.solvers import solver_named


def _known_solver(name: str) -> str:
    solver_named(name)
    return name


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


def _as_word(value: object) -> object:
    """YAML reads an unquoted ``on`` as true and ``off`` as false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


SolverName = Annotated[str, AfterValidator(_known_solver)]
Steps = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
"""The seeds that torch takes."""
Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainSettings(Section):
    """Length, batches and numerical method of training."""

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
    jitter: float = Field(default=0.0, ge=0, lt=1)
    """Random variation of the cell widths h: for each batch, each is scaled by a factor drawn uniformly from
    1 ± ``jitter``, and the widths are then normalized."""
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
    """Run one micro-batch of every so many steps twice and compare the bits of its gradients, so that silent
    data corruption stops the run before the update (ZeRO stages 0 to 2). Default: never."""

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


class GuardSettings(Section):
    """Protection against steps whose loss or gradient is not finite.

    They are skipped, and too many in a row cause a rollback.
    """

    max_skipped: int = Field(default=5, ge=1)
    """Consecutive skipped steps that cause a rollback to the last checkpoint; the data is not rolled back."""
    max_rollbacks: int = Field(default=2, ge=0)
    """Maximum number of rollbacks to the same checkpoint before the run stops."""
    on_spike: Literal["event", "skip"] = "event"
    """Reaction to a loss spike: ``event`` only logs it, ``skip`` also skips the step."""
    spike_window: int = Field(default=100, ge=10)
    """Number of recent losses to compare each loss with when detecting spikes."""
    spike_deviations: float = Field(default=10.0, gt=0)
    """A loss this many standard deviations (estimated from the MAD) above the window's median is a spike."""


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


class TrackingSettings(Section):
    """Place of a run's metrics and weights in MLflow."""

    uri: str | None = None
    """MLflow tracking URI. Default: ``MLFLOW_TRACKING_URI``, else a SQLite file under ``runs/``."""
    experiment: str = "odeformer"
    """MLflow experiment that the run belongs to."""
    register_as: ModelName | None = None
    """Name to register the final weights under, with the alias ``candidate`` and, if the name has none yet,
    ``champion``. Default: do not register them."""


class EvaluateSettings(Section):
    """Scores of checkpoints, measured beside training by a process that no worker waits for."""

    every: Steps | None = None
    """Score the checkpoints at multiples of this step, and the last one; must be a multiple of
    ``checkpoint.every``. They are kept until then. Default: none."""
    tasks: tuple[str, ...] = ()
    """LM Evaluation Harness tasks, as for ``odeformer eval --tasks``."""
    task_folder: Path | None = None
    """Folder of your own LM Evaluation Harness tasks. Default: that of the package."""
    limit: Count | None = None
    """Maximum number of examples per task. Default: all."""
    texts: tuple[Path, ...] = ()
    """Held-out text files to measure the loss on, such as one for each source of the shards."""
    prompts: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts to continue with up to 64 of the most likely tokens."""
    depths: tuple[Layers, ...] = ()
    """Depths N to score at. Default: the model depth."""

    @model_validator(mode="after")
    def _says_what(self) -> EvaluateSettings:
        if self.every is not None and not (self.tasks or self.texts or self.prompts):
            raise ValueError("evaluate.every needs evaluate.tasks, evaluate.texts or evaluate.prompts")
        if len({text.name for text in self.texts}) < len(self.texts):
            raise ValueError("evaluate.texts has two files of the same name, by which scores are told apart")
        return self


class RegisterSettings(Section):
    """Choice of the weights that are registered under ``tracking.register_as``."""

    best: Annotated[str, Field(min_length=1)] | None = None
    """Register the scored checkpoint that is best by this score, such as ``python_next_line/acc`` or
    ``book.txt/nats_per_token``, at the model depth or else the largest of ``evaluate.depths``; ``…_4`` means
    N = 4. Its weights are kept in ``run.dir/best``. Default: the final weights."""


class RunSettings(Section):
    """Folder and seed of a run."""

    dir: Path
    """Folder for everything that the run writes. A run in an existing folder is resumed."""
    seed: Seed = 0
    """Seed of the initial weights and of each batch's depth and cell widths."""


# The metaclass of pydantic's models has a method of this name, which nothing here calls on the settings.
warnings.filterwarnings("ignore", 'Field name "register" in "PretrainSettings" shadows')


class PretrainSettings(Section):
    """All settings of ``odeformer pretrain``."""

    model: ModelConfig
    """Shape of the model, or ``preset: NAME`` with any values that differ from the preset."""
    init: str | None = None
    """Initial weights: ``models:/<name>@<alias>`` or a checkpoint folder. Their shape replaces ``model``, and
    the shards must have been built with their tokenizer. Default: random weights."""
    teacher: TeacherSettings | None = None
    """Teacher whose predictions are targets beside the tokens. Default: none."""
    data: DataSettings
    train: TrainSettings
    optim: OptimSettings = OptimSettings()
    zero: ZeroSettings = ZeroSettings()
    guard: GuardSettings = GuardSettings()
    cluster: ClusterSettings = ClusterSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    tracking: TrackingSettings = TrackingSettings()
    register: RegisterSettings = RegisterSettings()
    run: RunSettings

    @model_validator(mode="after")
    def _batches_fit(self) -> PretrainSettings:
        train, cluster = self.train, self.cluster
        if not self.world_sizes:
            fewest = cluster.min_workers
            fewer = "" if fewest is None else f", nor for any number down to cluster.min_workers {fewest}"
            raise ValueError(
                f"train.global_batch {train.global_batch} is not a multiple of train.micro_batch × "
                f"cluster.workers = {train.micro_batch} × {cluster.workers}{fewer}"
            )
        return self

    @property
    def world_sizes(self) -> list[int]:
        """Allowed numbers of workers, largest first: those that split the batch into whole micro-batches."""
        train, most = self.train, self.cluster.workers
        sizes = range(most, (self.cluster.min_workers or most) - 1, -1)
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
                f"train.gradient {gradient!r} regenerates weights in the backward pass, when zero.stage 3 "
                "has released the weight sets: use zero.stage 2, or gradient 'checkpoint'"
            )
        if method.regenerates_weights and self.model.dropout_rate:
            raise ValueError(
                f"train.gradient {gradient!r} cannot repeat the random dropout masks: set model.dropout 0"
            )
        return self

    @model_validator(mode="after")
    def _optimizer_fits(self) -> PretrainSettings:
        if self.optim.name == "muon" and (self.zero.stage == 3 or self.zero.offload_optimizer != "none"):
            raise ValueError(
                "optim.name muon needs whole matrices on the device: use zero.stage 0, 1 or 2 without "
                "zero.offload_optimizer, or optim.name adamw"
            )
        return self

    @model_validator(mode="after")
    def _replay_fits(self) -> PretrainSettings:
        if self.train.replay_every is not None and self.zero.stage == 3:
            raise ValueError(
                "train.replay_every compares whole gradients, which no worker has at zero.stage 3: "
                "use zero.stage 2"
            )
        return self

    @model_validator(mode="after")
    def _depths_fit(self) -> PretrainSettings:
        objective = self.train.objective
        if objective == "one_depth":
            return self
        if not set(self.train.depths) - {self.model.depth}:
            raise ValueError(
                f"train.objective {objective!r} needs a depth in train.depths besides "
                f"model.depth {self.model.depth}; for one depth set train.objective one_depth"
            )
        return self

    @model_validator(mode="after")
    def _scores_are_measured(self) -> PretrainSettings:
        every, best = self.evaluate.every, self.register.best
        if every is not None and every % self.checkpoint.every:
            raise ValueError(
                f"evaluate.every {every} is not a multiple of checkpoint.every {self.checkpoint.every}"
            )
        if best is not None and (every is None or self.tracking.register_as is None):
            raise ValueError("register.best needs evaluate.every, and a name in tracking.register_as")
        return self

    def absolute(self, tracking_uri: str) -> PretrainSettings:
        """A copy with absolute local paths and this tracking URI, valid in any working directory."""
        init, evaluate = self.init, self.evaluate
        if init is not None and not init.startswith("models:/"):
            init = str(Path(init).absolute())
        return self.model_copy(
            update={
                "init": init,
                "teacher": self.teacher and self.teacher.absolute(),
                "data": self.data.absolute(),
                "evaluate": evaluate.model_copy(
                    update={
                        "texts": tuple(text.absolute() for text in evaluate.texts),
                        "task_folder": evaluate.task_folder and evaluate.task_folder.absolute(),
                    }
                ),
                "tracking": self.tracking.model_copy(update={"uri": tracking_uri}),
                "run": self.run.model_copy(update={"dir": self.run.dir.absolute()}),
            }
        )
