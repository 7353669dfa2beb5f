"""What a training run is made of: the :class:`Work` that pretraining and fine-tuning pass to the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.checkpoints import commit
from cluster.settings import (
    CheckpointSettings,
    GuardSettings,
    OptimSettings,
    RunSettings,
    TrainSettings,
    ZeroSettings,
)
from cluster.training.loss import TokenLoss
from cluster.training.teacher import Teacher
from data.elastic import Batch
from odeformer.model import Odeformer


class Stream(commit.Cursor, Protocol):
    """An endless stream of this rank's parts of the global batches."""

    def __iter__(self) -> Iterator[Batch]: ...


Report = Callable[[str, int, Mapping[str, Any]], object]
"""``report(event, step, values)`` logs an event, on rank 0 only. Numbers in ``values`` become metrics."""


@dataclass(frozen=True)
class Work:
    """What to train, on which data, and how."""

    model: Odeformer
    """The initialized model, or one with the same interface such as :class:`odeformer.frozen.Tuned`. The
    parameters that require gradients are trained."""
    stream: Stream
    validate: Callable[[Any], dict[str, float]]
    """Called on every rank with the engine; returns the metrics to report."""
    report: Report
    run: RunSettings
    train: TrainSettings
    optim: OptimSettings
    zero: ZeroSettings
    checkpoint: CheckpointSettings
    must_resume: bool = False
    """Whether the weights of ``model`` mean nothing, as those of a commit will replace them."""
    guard: GuardSettings = field(default_factory=GuardSettings)
    loss: TokenLoss = field(default_factory=TokenLoss)
    teacher: Teacher | None = None
    """A frozen model whose predictions are targets beside the tokens."""
    end_of_text: int | None = None
    """Id of the token that ends a document; if given, attention between documents is masked."""
    skip_damaged: int = 0
    """Maximum number of damaged samples, over all ranks, before the run stops."""
    finish_backward: Callable[[], None] = lambda: None
    """Called after each backward pass; joint passes complete the gradient in it."""
    sources: tuple[str, ...] = ()
    """Names of the sources that batches are mixed from, whose losses are reported as ``loss/<name>``."""
    begun: Callable[[int], None] = lambda step: None
    """Called on every rank with the step from which the run begins or continues."""
    must_stop: Callable[[], bool] = lambda: False
    """Called on every rank at every step; if any rank returns True, all of them commit the step and stop."""
