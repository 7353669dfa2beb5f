"""All settings of a pretraining run, and what one section demands of another."""

from __future__ import annotations

import warnings

from pydantic import model_validator

from cluster.names import absolute_name
from cluster.settings.checkpoint import CheckpointSettings
from cluster.settings.cluster import ClusterSettings
from cluster.settings.data import DataSettings
from cluster.settings.evaluate import EvaluateSettings
from cluster.settings.guard import GuardSettings
from cluster.settings.optim import OptimSettings
from cluster.settings.run import RunSettings
from cluster.settings.teacher import TeacherSettings
from cluster.settings.tracking import RegisterSettings, TrackingSettings
from cluster.settings.train import TrainSettings
from cluster.settings.zero import ZeroSettings
from odeformer.config import ModelConfig
from odeformer.gradients import gradient_named
from odeformer.section import Section
from odeformer.solvers import solver_named

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
        evaluate = self.evaluate
        return self.model_copy(
            update={
                "init": self.init and absolute_name(self.init),
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
