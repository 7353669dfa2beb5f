"""``odeformer grad-check``: what every gradient method would do to a run, before it is started."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from cluster.settings import PretrainSettings


def grad_check(
    settings: PretrainSettings, depths: Sequence[int], checkpoint: str | None
) -> Iterator[list[dict[str, object]]]:
    """The rows of each depth, for a micro-batch of the run's own shards.

    Args:
        settings: of the run.
        depths: those that the run trains at when empty.
        checkpoint: trained weights to check instead of fresh ones, ``models:/…`` or a folder.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the memory measurement's profiler announces itself
    from dataclasses import asdict

    import torch

    from cluster import registry
    from cluster.resolve import complete_model
    from cluster.training.shards import describe, open_stream
    from odeformer.measure.gradient_check import check_gradients, pairs_of
    from odeformer.model import Odeformer
    from odeformer.solvers import MEMORY_SAVING, SOLVERS, ReversibleSolver

    train = settings.train
    shards = describe(settings)
    shape = complete_model(settings, shards.manifest)
    if checkpoint is None:
        torch.manual_seed(settings.run.seed)
        model = Odeformer(shape).eval()  # dropout would make every gradient another one
    else:
        model = registry.load(checkpoint, settings.tracking.uri).model
    stream = open_stream(settings, "train", global_batch=train.micro_batch, described=shards)
    ids = next(iter(stream)).tokens
    solver = train.solver_for(shape)
    pairs = pairs_of(solver)
    if not isinstance(SOLVERS[solver], ReversibleSolver):
        pairs += [pair for pair in pairs_of(MEMORY_SAVING) if pair[1] != "checkpoint"]
    for depth in depths or sorted(set(train.depths)) or [shape.depth]:
        yield [asdict(row) for row in check_gradients(model, ids, depth, train.precision, pairs)]
