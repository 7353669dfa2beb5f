"""The training loop. Pretraining and fine-tuning differ only in the :class:`Work` that they pass to it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist

from cluster.checkpoints import commit
from cluster.runs import heartbeat
from cluster.runs.events import Event
from cluster.runs.failures import PreemptedError
from cluster.settings import (
    CheckpointSettings,
    GuardSettings,
    OptimSettings,
    RunSettings,
    TrainSettings,
    ZeroSettings,
)
from cluster.training import zero
from cluster.training.compiling import decide
from cluster.training.guards import Guards, StepResult, weights_are_finite
from cluster.training.loss import TokenLoss, predictions
from cluster.training.replay import CorruptionError, Replay
from cluster.training.schedule import learning_rate
from cluster.training.step_times import StepTimes
from cluster.training.teacher import Teacher
from cluster.training.trace import Trace
from cluster.training.utilization import peak_flops, step_flops, utilization
from data.elastic import Batch
from odeformer.compiled import compiled
from odeformer.config import ModelConfig
from odeformer.depth import Grid, batch_depth, batch_grid, layered_grid
from odeformer.model import Odeformer, SolveOptions, distillation_losses, token_losses

logger = logging.getLogger(__name__)


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


def train(work: Work) -> Any:
    """Train from the last committed step until ``work.train.steps``.

    Every rank of an initialized process group calls this, with the same settings and its own stream.

    Returns:
        The DeepSpeed engine with the trained model.

    Raises:
        PreemptedError: on all ranks, if any of them had to stop. The last step has been committed.
    """
    settings, folder = work.train, work.run.dir / "checkpoints"
    solver = settings.solver_for(work.model.config)
    work.model.options = SolveOptions(solver, settings.gradient, settings.segment)
    engine = zero.initialize(work.model, settings, work.optim, work.zero, work.run.dir)
    decision = decide(settings, work.model, engine.device.type, dist.get_world_size())
    work.model.options = replace(work.model.options, compiled=decision.compiled)
    if work.optim.name == "muon" and not decision.compiled:
        torch.compiler.set_stance("force_eager")  # DeepSpeed would compile its update
    guards = Guards(work.guard, work.stream, work.run.dir, work.report)
    with commit.Checkpoints(
        engine, guards, folder, work.checkpoint, work.report, work.run.seed
    ) as checkpoints:
        _train(work, engine, guards, checkpoints, decision.reason)
    return engine


def _train(work: Work, engine: Any, guards: Guards, checkpoints: commit.Checkpoints, compiling: str) -> None:
    settings = work.train
    times, peak = StepTimes(engine), peak_flops(engine.device, settings.precision)
    trace = Trace(settings.trace, work.run.dir, dist.get_rank(), torch.device(engine.device))
    replay = None
    if settings.replay_every is not None:
        autocast = torch.bfloat16 if settings.precision == "bf16" else None
        replay = Replay(engine, settings.replay_every, autocast)
    step = checkpoints.restore()
    if work.must_resume and step == 0:
        raise RuntimeError(f"the checkpoints of {work.run.dir} have gone since the start")
    beginning = {"workers": dist.get_world_size(), "reason": compiling}
    work.report(Event.RESUMED if step else Event.STARTED, step, beginning)
    work.begun(step)
    work.report(Event.VALIDATION, step, work.validate(engine))

    batches, damaged = iter(work.stream), 0
    while step < settings.steps:
        guards.pass_over(step)
        trace.before(step + 1)
        times.begin()
        rate = learning_rate(work.optim, step, settings.steps)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        depths = step_depths(settings, work.model.config.depth, work.run.seed, step)
        grids = [step_grid(settings, work.model.config, work.run.seed, step, depth) for depth in depths]

        with times("data"):
            batch = next(batches)
        if work.skip_damaged:
            damaged += damaged_samples(batch, engine.device)
            if damaged > work.skip_damaged:  # the same number on every rank
                raise RuntimeError(
                    f"{damaged} damaged samples by step {step + 1}; data.skip_damaged allows "
                    f"{work.skip_damaged}: find the damaged shards with odeformer data verify --deep"
                )

        try:
            result = optimizer_step(engine, batch, grids, work, times, guards.loss_limit, replay, step)
        except CorruptionError as error:
            work.report(Event.CORRUPTED, step + 1, {"reason": str(error)})
            raise
        step += 1
        heartbeat.passed(step)
        trace.after(step)
        if guards.must_roll_back(step, result, batch.sample_ids.tolist()):
            step = guards.roll_back(checkpoints, step, "too many bad steps in a row")
            continue

        if result.applied:
            guards.tokens += result.tokens
            seconds, length = times.seconds(), batch.tokens.shape[-1] - 1
            if dist.get_world_size() > 1:
                heartbeat.measured(step, times.alone(seconds))
            rows = settings.global_batch * batch.tokens[0, ..., 0].numel()
            flops = step_flops(work.model, grids, rows, length)
            work.report(
                Event.STEP,
                step,
                {
                    "loss": result.loss,
                    **{f"loss/{name}": loss for name, loss in result.source_losses.items()},
                    "depth": depths[-1],
                    "learning_rate": rate,
                    "gradient_norm": result.gradient_norm,
                    "tokens": guards.tokens,
                    "tokens_per_second": result.tokens / seconds["step_seconds"],
                    **utilization(flops, seconds["step_seconds"], dist.get_world_size(), peak),
                    **seconds,
                },
            )

        last = step == settings.steps
        ending = result.must_stop and not last
        if last or (step % settings.validate_every == 0 and not ending):
            work.report(Event.VALIDATION, step, work.validate(engine))
        if last or ending or (step % work.checkpoint.every == 0 and guards.last_step_was_good):
            if not weights_are_finite(engine):
                step = guards.roll_back(checkpoints, step, "weights that are not finite")
                continue
            checkpoints.save(step)
            heartbeat.passed()
        if ending:
            raise PreemptedError(step)


def step_depths(train: TrainSettings, model_depth: int, seed: int, step: int) -> list[int]:
    """The depths N of a step's passes over its batch: one drawn depth, or the model depth and another one.

    Depths may be drawn late in the run only (``train.vary_from``): a flow is accurate on finer grids without
    such training, and for coarser grids the last steps suffice.

    Two passes, at the model depth and at another one, follow the sandwich rule of slimmable networks, and
    distillation from the first to the second is their in-place distillation (Yu & Huang 2019, arXiv
    1903.05134), with depth instead of width.
    """
    if not train.depths or step < train.vary_from * train.steps:
        return [model_depth]
    if train.objective == "one_depth":
        return [batch_depth(seed, step, train.depths)]
    others = [depth for depth in train.depths if depth != model_depth]
    return [model_depth, batch_depth(seed, step, others)]


def step_grid(train: TrainSettings, model: ModelConfig, seed: int, step: int, depth: int) -> Grid:
    """The grid of a step's pass at depth N, with the step's jitter."""
    prelude = model.prelude_layers
    return batch_grid(seed, step, layered_grid(depth, prelude, model.depth), train.jitter, prelude)


def optimizer_step(
    engine: Any,
    batch: Batch,
    grids: list[Grid],
    work: Work,
    times: StepTimes,
    loss_limit: float = math.inf,
    replay: Replay | None = None,
    step: int = 0,
) -> StepResult:
    """Make an optimizer step on this rank's part of a global batch, in micro-batches, on one or two grids.

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

    # DeepSpeed averages over ranks, micro-batches and grids, whereas the loss is a mean over grids and over
    # all tokens of the global batch, which may be unevenly distributed.
    factor = dist.get_world_size() * engine.gradient_accumulation_steps() / (len(grids) * weight)
    losses = torch.zeros(len(grids), len(tokens), device=engine.device)  # per grid and sample

    passes = len(grids) * -(-len(tokens) // train.micro_batch)
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
        for nth, grid in enumerate(grids):
            passes -= 1
            is_last = passes == 0
            engine.set_gradient_accumulation_boundary(is_last)  # the number of passes may change in a run
            forward = partial(pass_losses, part=part, grid=grid, own=own, taught=taught, work=work)
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
                mean, stopping_ranks = sums[: len(grids)] / weight, sums[len(grids)]
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
    means = source_means(work.sources, sums[len(grids) + 1 :])
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
    model: Any, part: Batch, grid: Grid, own: Tensor | None, taught: Tensor | None, work: Work
) -> tuple[Tensor, Tensor]:
    """The logits of a micro-batch on a grid, and the loss of each of its samples, [samples].

    Args:
        model: the engine, or its module.
        part: the samples, on the engine's device, with their mask.
        own: logits at the model depth that are the targets in place of the tokens.
        taught: logits of ``work.teacher`` that are targets beside the tokens, unless ``own`` is given.
    """
    assert part.loss_mask is not None
    losses_of = compiled(token_losses) if work.model.options.compiled else token_losses
    logits = predictions(model, part.tokens, grid, work.end_of_text, part.documents)
    if own is not None:
        per_token = distillation_losses(logits, own)
    else:
        per_token = losses_of(logits, part.tokens[..., 1:])
        if work.teacher is not None and taught is not None:
            per_token = work.teacher.mix(per_token, logits, taught)
    return logits, work.loss.of_samples(model, part, grid, per_token * part.loss_mask)


def damaged_samples(batch: Batch, device: torch.device) -> int:
    """Number of damaged samples in a batch, over all ranks; those of this rank are logged."""
    for reason in batch.damaged:
        logger.warning("skipped: %s", reason)
    return int(all_reduce_sum(torch.tensor(len(batch.damaged), device=device)))


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum of a tensor over all ranks."""
    value = value.clone()
    dist.all_reduce(value)
    return value
