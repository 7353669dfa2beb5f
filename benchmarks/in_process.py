"""A training run through the one loop, in this process, on one core: what the rows of benchmarks are."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from cluster.settings import CheckpointSettings, OptimSettings, RunSettings, TrainSettings, ZeroSettings
from cluster.training import worker
from data.manifest import SplitName
from data.stream import ShardStream

SEQUENCE_LENGTH = 256


def train_here(
    module: nn.Module, stream: ShardStream, train: TrainSettings, optim: OptimSettings, seed: int
) -> tuple[Any, list[float]]:
    """Train a module with the interface of our model; the engine that holds the result, and all losses."""
    alone()
    losses: list[float] = []

    def report(event: str, step: int, values: dict[str, float]) -> None:
        if event == "step":
            losses.append(values["loss"])

    with tempfile.TemporaryDirectory() as folder:
        engine = worker.train(
            worker.Work(
                model=module,  # type: ignore[arg-type]
                stream=stream,
                validate=lambda engine: {},
                report=report,
                run=RunSettings(dir=Path(folder), seed=seed),
                train=train,
                optim=optim,
                zero=ZeroSettings(stage=0),
                checkpoint=CheckpointSettings(every=train.steps),
            )
        )
    return engine, losses


class AsEngine:
    """A module behind the interface of an engine, its products in bf16 as in training: to evaluate it."""

    device = "cpu"

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, ids: torch.Tensor, depth: int) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return self.module(ids, depth=depth)

    def eval(self) -> None:
        self.module.eval()


def alone() -> None:
    """A process group of this process only, and one thread: rows run beside one another."""
    torch.set_num_threads(1)
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def open_stream(shards: Path, split: SplitName, batch: int, start: int = 0) -> ShardStream:
    """A split of the shards in the order that every row sees, from its sequence ``start`` on."""
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
