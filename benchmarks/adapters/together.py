"""Jobs that share one process and its passes, against one warm process for each job."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import torch

import odeformer
from benchmarks.adapters.gains import SST2
from benchmarks.in_process import alone
from cluster.finetuning.together import Together
from cluster.settings import CheckpointSettings, OptimSettings, RunSettings, TrainSettings, ZeroSettings
from cluster.training import worker
from cluster.training.work import Work
from data.tokenizer import load_tokenizer
from odeformer.config import AdapterConfig
from odeformer.frozen import FrozenBase, Tuned
from odeformer.lora import Adapter

JOBS, LENGTH = 4, 64
WARM, STEPS = 10, 40
"""The steps before timing starts, and those that are timed."""


class Clock:
    """Wall and processor time and the process's share of memory, read as steps are reported."""

    def __init__(self, ready: Callable[[], object]) -> None:
        self._ready = ready
        self.wall: list[float] = []
        self.processor: list[float] = []
        self.pss = 0

    def __call__(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        if event != "step":
            return
        if step == WARM:
            self._ready()
        if step in (WARM, WARM + STEPS):
            self.wall.append(time.monotonic())
            self.processor.append(time.process_time())
        if step == WARM + STEPS // 2:
            self.pss = psutil.Process().memory_full_info().pss


def compare(base: Path, batch: int, core: int) -> dict[str, Any]:
    """A row of both ways, one after the other on the same core."""
    context = get_context("spawn")
    totals: dict[str, dict[str, float]] = {}
    for way, processes in (("apart", JOBS), ("together", 1)):
        barrier, results = context.Barrier(processes), context.Queue()
        started = [
            context.Process(target=run, args=(way, index, base, batch, core, barrier, results))
            for index in range(processes)
        ]
        for process in started:
            process.start()
        measured = [results.get() for _ in started]
        for process in started:
            process.join()
        totals[way] = {key: sum(result[key] for result in measured) for key in ("processor", "pss")}
        totals[way]["wall"] = max(r["end"] for r in measured) - min(r["begin"] for r in measured)
    tokens = JOBS * STEPS * batch * LENGTH
    return {
        "kind": "together",
        "jobs": JOBS,
        "batch": batch,
        "length": LENGTH,
        "tokens_per_second": {way: tokens / total["wall"] for way, total in totals.items()},
        "tokens_per_processor_second": {way: tokens / total["processor"] for way, total in totals.items()},
        "pss_bytes": {way: total["pss"] for way, total in totals.items()},
        "time_ratio": totals["apart"]["wall"] / totals["together"]["wall"],
        "processor_ratio": totals["apart"]["processor"] / totals["together"]["processor"],
        "memory_ratio": totals["together"]["pss"] / totals["apart"]["pss"],
    }


def run(way: str, index: int, base: Path, batch: int, core: int, barrier: Any, results: Any) -> None:
    """Run one process with a single job, or with all jobs together."""
    os.sched_setaffinity(0, {core})
    alone()
    frozen = FrozenBase(odeformer.load(base))
    frozen.settle(None)
    if way == "apart":
        clock = Clock(barrier.wait)
        adapter = new_adapter(frozen, index)
        train(base, Tuned(frozen, adapter), index, batch, clock, lambda: None)
        clocks = [clock]
    else:
        together = Together(frozen)
        clocks = [Clock(lambda: None) for _ in range(JOBS)]
        members = [together.member(new_adapter(frozen, number)) for number in range(JOBS)]
        together.run(
            [
                partial(train, base, member, number, batch, clock, member.finish_backward)
                for number, (member, clock) in enumerate(zip(members, clocks, strict=True))
            ]
        )
    begin, end = min(clock.wall[0] for clock in clocks), max(clock.wall[1] for clock in clocks)
    processor = max(c.processor[1] for c in clocks) - min(c.processor[0] for c in clocks)
    pss = max(clock.pss for clock in clocks)
    results.put({"begin": begin, "end": end, "processor": processor, "pss": pss})


def new_adapter(frozen: FrozenBase, seed: int) -> Adapter:
    torch.manual_seed(seed)
    return Adapter(AdapterConfig(rank=8), frozen.model.config)


def train(
    base: Path, model: Tuned, seed: int, batch: int, clock: Clock, finish_backward: Callable[[], None]
) -> None:
    """Run the training loop as a job does, with everything except MLflow."""
    steps = WARM + STEPS + 1
    with tempfile.TemporaryDirectory() as folder:
        worker.train(
            Work(
                model=model,  # type: ignore[arg-type]
                stream=SST2.stream(load_tokenizer(base), batch, seed),
                validate=lambda engine: {},
                report=clock,
                run=RunSettings(dir=Path(folder), seed=seed),
                train=TrainSettings(steps=steps, global_batch=batch, micro_batch=batch, validate_every=steps),
                optim=OptimSettings(learning_rate=1e-3, weight_decay=0.0),
                zero=ZeroSettings(stage=0),
                checkpoint=CheckpointSettings(every=steps),
                finish_backward=finish_backward,
            )
        )
