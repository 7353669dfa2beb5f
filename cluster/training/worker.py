"""The training loop. Pretraining and fine-tuning differ only in the :class:`Work` that they pass to it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import distributed as dist

from cluster.checkpoints import commit
from cluster.runs import heartbeat
from cluster.runs.events import Event
from cluster.runs.failures import PreemptedError
from cluster.training import zero
from cluster.training.communication import all_reduce_sum
from cluster.training.compiling import decide
from cluster.training.depths import step_depths
from cluster.training.guards import Guards, weights_are_finite
from cluster.training.replay import CorruptionError, Replay
from cluster.training.schedule import learning_rate
from cluster.training.step import optimizer_step
from cluster.training.step_times import StepTimes
from cluster.training.trace import Trace
from cluster.training.utilization import peak_flops, step_flops, utilization
from cluster.training.work import Work
from data.elastic import Batch
from odeformer.model import SolveOptions

logger = logging.getLogger(__name__)


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
            result = optimizer_step(engine, batch, depths, work, times, guards.loss_limit, replay, step)
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
            flops = step_flops(work.model, depths, rows, length)
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


def damaged_samples(batch: Batch, device: torch.device) -> int:
    """Number of damaged samples in a batch, over all ranks; those of this rank are logged."""
    for reason in batch.damaged:
        logger.warning("skipped: %s", reason)
    return int(all_reduce_sum(torch.tensor(len(batch.damaged), device=device)))
