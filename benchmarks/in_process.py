"""A training run through the product's loop, in this process and on one core."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import distributed as dist
from torch import nn

from cluster.runs.events import EventLog, logged
from cluster.settings import CheckpointSettings, OptimSettings, RunSettings, TrainSettings, ZeroSettings
from cluster.training import worker
from cluster.training.teacher import Teacher
from cluster.training.work import Work
from data.manifest import SplitName
from data.stream import ShardStream
from data.tasks.stream import TaskStream
from odeformer.config import ModelConfig
from odeformer.model import SolveOptions
from odeformer.solvers import Solver, solver_named

SEQUENCE_LENGTH = 256


class OrdinaryModel(nn.Module):
    """A model of another library with the interface that the training loop uses."""

    solver = "euler"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.options = config, SolveOptions(self.solver, "direct")

    def layer_solver(self, solver: str | None = None) -> Solver:
        """The solver, by which the loop counts one evaluation for each layer."""
        return solver_named(self.solver)


def train_settings(steps: int, batch: int, **settings: Any) -> TrainSettings:
    """Settings of a run with one micro-batch a step; by default uncompiled and with gradient ``direct``."""
    settings = {"gradient": "direct", "compile": "off", **settings}
    return TrainSettings(steps=steps, global_batch=batch, micro_batch=batch, **settings)


def train_here(
    module: nn.Module, stream: ShardStream | TaskStream, train: TrainSettings, optim: OptimSettings, seed: int
) -> tuple[Any, list[float]]:
    """Train a module in a temporary folder; returns the engine that holds it, and the loss of each step."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunSettings(dir=Path(folder), seed=seed)
        engine, events = train_in(run, module, stream, train, optim, commit_every=train.steps)
    return engine, [event["loss"] for event in events if event["event"] == "step"]


def train_in(
    run: RunSettings,
    module: nn.Module,
    stream: ShardStream | TaskStream,
    train: TrainSettings,
    optim: OptimSettings,
    commit_every: int,
    validate: Callable[[Any], dict[str, float]] = lambda engine: {},
    teacher: Teacher | None = None,
) -> tuple[Any, list[dict[str, Any]]]:
    """Train a module in a run folder; a second call resumes from the last checkpoint there.

    Args:
        run: the folder, which holds only this run, and the seed.
        commit_every: optimizer steps between checkpoints.
        validate: called with the engine every ``train.validate_every`` steps; its metrics go into the events.
        teacher: a frozen model whose predictions are targets beside the tokens.

    Returns:
        The engine that holds the result, and the events of the run, one of a kind for each step.
    """
    alone()
    log = EventLog(run.dir)
    engine = worker.train(
        Work(
            model=module,  # type: ignore[arg-type]
            stream=stream,
            validate=validate,
            report=log,
            run=run,
            train=train,
            optim=optim,
            zero=ZeroSettings(stage=0),
            checkpoint=CheckpointSettings(every=commit_every, keep=1),
            teacher=teacher,
        )
    )
    # A step that was repeated after an interruption counts as it was made last.
    return engine, list({(event["event"], event["step"]): event for event in logged(run.dir)}.values())


class AsEngine:
    """A module with the interface of an engine, for evaluation with matmuls in the given precision."""

    def __init__(self, module: nn.Module, precision: Literal["fp32", "bf16"] = "bf16") -> None:
        self.module, self._bf16 = module, precision == "bf16"

    def __call__(self, ids: torch.Tensor, depth: int) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            return self.module(ids, depth=depth)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def eval(self) -> None:
        self.module.eval()

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.module.parameters()


def alone() -> None:
    """Limit this process to one thread and give it a process group of its own, as rows run side by side."""
    torch.set_num_threads(1)
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def open_stream(shards: Path, split: SplitName, batch: int, start: int = 0) -> ShardStream:
    """A split of the shards from sequence ``start``, in the order that every row sees."""
    return ShardStream(
        shards,
        rank=0,
        world_size=1,
        global_batch=batch,
        sequence_length=SEQUENCE_LENGTH,
        seed=0,
        split=split,
        start=start,
    )
