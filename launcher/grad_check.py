"""Error, memory and time of every gradient method on a run's own data, before the run is started."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from cluster import registry
from cluster.resolve import complete_model
from cluster.settings import PretrainSettings
from cluster.training.shards import describe, open_stream
from odeformer.measure.gradient_check import GradientRow, check_gradients, pairs_of
from odeformer.model import Odeformer
from odeformer.solvers import MEMORY_SAVING, SOLVERS, ReversibleSolver


def grad_check(
    settings: PretrainSettings, depths: Sequence[int], checkpoint: str | None
) -> Iterator[list[GradientRow]]:
    """Check the gradient methods on one micro-batch; the rows of each depth.

    Args:
        settings: Settings of the run.
        depths: Depths N to check at; the run's training depths if empty.
        checkpoint: Trained weights to check instead of fresh ones, ``models:/…`` or a folder.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the profiler that measures memory
    train = settings.train
    with TemporaryDirectory() as cache:  # a run with these settings may be training
        shards = describe(settings, Path(cache))
        config = complete_model(settings, shards[0].manifest)
        stream = open_stream(settings, "train", global_batch=train.micro_batch, described=shards)
        ids = next(iter(stream)).tokens
    if checkpoint is None:
        torch.manual_seed(settings.run.seed)
        model = Odeformer(config).eval()  # dropout would change the gradient at each pass
    else:
        model = registry.load(checkpoint, settings.tracking.uri).model

    solver = train.solver_for(config)
    pairs = pairs_of(solver)
    if not isinstance(SOLVERS[solver], ReversibleSolver):
        pairs += [pair for pair in pairs_of(MEMORY_SAVING) if pair[1] != "checkpoint"]
    for depth in depths or sorted(set(train.depths)) or [config.depth]:
        yield check_gradients(model, ids, depth, train.precision, pairs)
