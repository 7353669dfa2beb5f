"""The optimizer step on a global batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from cluster.training import zero
from cluster.training.communication import all_reduce_sum
from cluster.training.guards import StepResult
from cluster.training.loss import predictions
from cluster.training.replay import Replay
from cluster.training.step_times import StepTimes
from cluster.training.work import Work
from data.elastic import Batch
from odeformer.compiled import compiled
from odeformer.model import distillation_losses, token_losses


def optimizer_step(
    engine: Any,
    batch: Batch,
    depths: list[int],
    work: Work,
    times: StepTimes,
    loss_limit: float = math.inf,
    replay: Replay | None = None,
    step: int = 0,
) -> StepResult:
    """Make an optimizer step on this rank's part of a global batch, in micro-batches, at one or two depths.

    A step whose loss is above ``loss_limit`` or not finite, or whose gradient is not finite, is skipped.

    Raises:
        CorruptionError: on all ranks, before the update, if a pass that ``replay`` repeats differs on any.
    """
    engine.train()
    train = work.train
    tokens = batch.tokens.to(engine.device)
    mask = (
        torch.ones_like(tokens[..., 1:], dtype=torch.bool)
        if batch.loss_mask is None
        else batch.loss_mask.to(engine.device)
    )
    documents = None if batch.documents is None else batch.documents.to(engine.device)
    with times("communication"):
        counted, weight = all_reduce_sum(torch.stack([mask.sum(), work.loss.weight(mask)]))

    # DeepSpeed averages over ranks, micro-batches and depths, whereas the loss is a mean over depths and over
    # all tokens of the global batch, which may be unevenly distributed.
    factor = dist.get_world_size() * engine.gradient_accumulation_steps() / (len(depths) * weight)
    losses = torch.zeros(len(depths), len(tokens), device=engine.device)  # per depth and sample

    passes = len(depths) * -(-len(tokens) // train.micro_batch)
    replayed = None if replay is None else replay.chosen(step, passes)
    for start in range(0, len(tokens), train.micro_batch):
        chosen = slice(start, start + train.micro_batch)
        apart = None if documents is None else documents[chosen]
        part = Batch(tokens[chosen], batch.sample_ids[chosen], mask[chosen], documents=apart)
        taught: Tensor | None = None
        if work.teacher is not None:
            with times("forward"):
                taught = work.teacher.logits(part, work.end_of_text)
        own: Tensor | None = None
        for nth, depth in enumerate(depths):
            passes -= 1
            is_last = passes == 0
            engine.set_gradient_accumulation_boundary(is_last)  # the number of passes may change in a run
            forward = partial(pass_losses, part=part, depth=depth, own=own, taught=taught, work=work)
            first = replay.begin() if replay is not None and passes == replayed else None
            with times("forward"):
                logits, per_sample = forward(engine)
            losses[nth, chosen] = per_sample.detach()
            if nth == 0:
                own = logits.detach() if train.objective == "distillation" else None
            del logits  # not held during the backward pass
            if is_last:
                # All losses of the step are known before its last backward pass. A NaN factor in this pass
                # makes the gradient NaN on all ranks, and such a gradient is not applied. The same all-reduce
                # sums whether each rank must stop, since all ranks have to agree on it.
                stop = torch.tensor([float(work.must_stop())], device=engine.device)
                of_sources = source_sums(batch, losses[0], mask, len(work.sources))
                with times("communication"):
                    sums = all_reduce_sum(torch.cat([losses.sum(dim=1), stop, of_sources]))
                mean, stopping_ranks = sums[: len(depths)] / weight, sums[len(depths)]
                good = mean.isfinite().all() & (mean[0] <= loss_limit)
                factor = factor.where(good, math.nan)
            with times("backward"):
                engine.backward(per_sample.sum() * factor)
                work.finish_backward()
            if replay is not None and first is not None:
                with times("replay"):
                    replay.compare(first, forward, factor)
            if replay is not None and replayed is not None and is_last:
                replay.check(step + 1)
            with times("optimizer"):
                norm = zero.apply_gradients(engine, work.optim.max_norm)

    bad = ~losses.isfinite().all(dim=0).cpu()
    samples = batch.sample_ids[bad].tolist()
    means = source_means(work.sources, sums[len(depths) + 1 :])
    return StepResult(float(mean[0]), int(counted), norm, samples, bool(stopping_ranks), means)


def source_sums(batch: Batch, losses: Tensor, mask: Tensor, sources: int) -> Tensor:
    """Summed losses and numbers of tokens of this rank's samples, by source: [2 · sources].

    Args:
        batch: the samples.
        losses: the loss of each, [samples].
        mask: mask of the tokens that count, [samples, ..., tokens].
        sources: number of sources, 0 if they are not to be told apart.
    """
    if batch.sources is None or not sources:
        return losses.new_zeros(2 * sources)
    of_source = nn.functional.one_hot(batch.sources, sources).to(losses)
    values = torch.stack([losses, mask.flatten(1).sum(dim=1).to(losses)])
    return (values[:, :, None] * of_source).sum(dim=1).flatten()


def source_means(sources: Sequence[str], sums: Tensor) -> dict[str, float]:
    """The mean loss per token of each source that has any, from the :func:`source_sums` of all ranks."""
    if not sources:
        return {}
    totals, tokens = sums.view(2, -1).tolist()
    return {name: total / n for name, total, n in zip(sources, totals, tokens, strict=True) if n}


def pass_losses(
    model: Any, part: Batch, depth: int, own: Tensor | None, taught: Tensor | None, work: Work
) -> tuple[Tensor, Tensor]:
    """The logits of a micro-batch at a depth, and the loss of each of its samples, [samples].

    Args:
        model: the engine, or its module.
        part: the samples, on the engine's device, with their mask.
        own: logits at the model depth that are the targets in place of the tokens.
        taught: logits of ``work.teacher`` that are targets beside the tokens, unless ``own`` is given.
    """
    assert part.loss_mask is not None
    losses_of = compiled(token_losses) if work.model.options.compiled else token_losses
    logits = predictions(model, part.tokens, depth, work.end_of_text, part.documents)
    if own is not None:
        per_token = distillation_losses(logits, own)
    else:
        per_token = losses_of(logits, part.tokens[..., 1:])
        if work.teacher is not None and taught is not None:
            per_token = work.teacher.mix(per_token, logits, taught)
    return logits, work.loss.of_samples(model, part, depth, per_token * part.loss_mask)
