"""All settings of a pretraining run, and the checks across its sections."""

from __future__ import annotations

from pathlib import Path

from pydantic import model_validator

from cluster.settings.running import (
    CheckpointSettings,
    ClusterSettings,
    DataSettings,
    RunSettings,
    TrackingSettings,
)
from cluster.settings.training import GuardSettings, OptimSettings, TrainSettings, ZeroSettings
from data.remote import is_remote
from odeformer.config import ModelConfig
from odeformer.gradients import gradient_named
from odeformer.section import Section
from odeformer.solvers import solver_named


class PretrainSettings(Section):
    """All settings of ``odeformer pretrain``."""

    model: ModelConfig
    """Shape of the model, or ``preset: NAME`` and the values that differ from it."""
    init: str | None = None
    """Continue from these weights: ``models:/<name>@<alias>`` or a checkpoint folder. Their shape replaces
    ``model``, and the shards must have been built with their tokenizer."""
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
            fewer = "" if fewest is None else f", nor for any number down to cluster.min_workers {fewest}"
            raise ValueError(
                f"train.global_batch {train.global_batch} is not a multiple of train.micro_batch × "
                f"cluster.workers = {train.micro_batch} × {cluster.workers}{fewer}"
            )
        return self

    @property
    def world_sizes(self) -> list[int]:
        """Allowed numbers of workers, largest first: those that share the batch in whole micro-batches."""
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
                f"train.gradient {gradient!r} regenerates weights in the backward pass, when zero.stage 3 "
                "has released the weight sets: use zero.stage 2, or gradient 'checkpoint'"
            )
        if method.regenerates_weights and self.model.dropout_rate:
            raise ValueError(
                f"train.gradient {gradient!r} cannot repeat the random dropout masks: set model.dropout 0"
            )
        return self

    @model_validator(mode="after")
    def _depths_fit(self) -> PretrainSettings:
        if self.train.objective == "one_depth":
            return self
        if self.train.vary_from:
            raise ValueError(
                f"train.vary_from needs one depth per step; train.objective {self.train.objective!r} uses two"
            )
        if not set(self.train.depths) - {self.model.depth}:
            raise ValueError(
                f"train.objective {self.train.objective!r} needs a depth in train.depths besides "
                f"model.depth {self.model.depth}"
            )
        return self

    def absolute(self, tracking_uri: str) -> PretrainSettings:
        """The same settings for a process in any folder: with absolute local paths.

        Args:
            tracking_uri: the MLflow store to use, as :func:`cluster.tracking.store.tracking_uri` returns it.
        """
        shards, init = self.data.shards, self.init
        if not is_remote(shards):
            shards = str(Path(shards).absolute())
        if init is not None and not init.startswith("models:/"):
            init = str(Path(init).absolute())
        return self.model_copy(
            update={
                "init": init,
                "data": self.data.model_copy(update={"shards": shards}),
                "tracking": self.tracking.model_copy(update={"uri": tracking_uri}),
                "run": self.run.model_copy(update={"dir": self.run.dir.absolute()}),
            }
        )
