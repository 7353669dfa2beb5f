"""The gain on a task from an adapter and from full fine-tuning."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

import odeformer
from benchmarks.bench import Row, select
from benchmarks.in_process import AsEngine, alone, train_here, train_settings
from benchmarks.quality.rows import DEPTH
from cluster.settings import OptimSettings
from cluster.tasks.scoring import scores
from data.tasks.examples import TaskSets, read_task_sets
from data.tasks.stream import TaskStream
from data.tokenizer import load_tokenizer
from odeformer.config import AdapterConfig
from odeformer.frozen import FrozenBase, Tuned
from odeformer.lora import Adapter

RANK = 8
ADAPTER = AdapterConfig(rank=RANK)


@dataclass(frozen=True)
class Text:
    """A task and the length of its training."""

    name: str
    kind: str
    train: str
    validation: str
    prompt: str
    completion: str
    sequence_length: int
    batch: int
    scored: int
    """The number of first validation examples that are evaluated."""
    steps: int = 150

    def sets(self) -> TaskSets:
        """The examples of the task, from ``ODEFORMER_DATA``."""
        folder = Path(os.environ["ODEFORMER_DATA"])
        read = read_task_sets(
            folder / self.train, folder / self.validation, self.kind, self.prompt, self.completion
        )
        return TaskSets(read.train, read.validation[: self.scored], read.labels)

    def stream(self, tokenizer: Tokenizer, batch: int, seed: int) -> TaskStream:
        """Batches of the training examples for one process."""
        shape = {"global_batch": batch, "sequence_length": self.sequence_length}
        return TaskStream(self.sets().train, tokenizer, rank=0, world_size=1, seed=seed, **shape)


GSM8K = Text(
    "GSM8K", "completion", "gsm8k/train.jsonl", "gsm8k/test.jsonl", "{question}\n", "{answer}", 128, 8, 80
)
SST2 = Text(
    "SST-2", "classification", "sst2/train.tsv", "sst2/dev.tsv", "{0}\n", "{1}", 64, 16, 300, steps=1200
)
"""A task with long training: in 150 steps an adapter learns that an answer is one of two words, not which."""


@dataclass(frozen=True)
class Way:
    """A method and the depths that its batches are drawn from."""

    method: str
    depths: tuple[int, ...]
    rates: tuple[float, ...]
    """Rising learning rates, tried with the first seed until it gets worse."""
    adapter: AdapterConfig = ADAPTER

    @property
    def name(self) -> str:
        more = " and embedding" if "embedding" in self.adapter.targets else ""
        rank = f" {self.adapter.rank}" if self.adapter.rank != RANK else ""
        return f"{self.method}{rank}{more} at {', '.join(map(str, self.depths))}"


LORA_RATES, FULL_RATES = (4e-3, 8e-3, 1.6e-2, 3.2e-2), (1e-3, 2e-3, 4e-3)
LORA, FULL = Way("lora", (DEPTH,), LORA_RATES), Way("full", (DEPTH,), FULL_RATES)
LORA_LONG = Way("lora", (DEPTH,), (2e-3, *LORA_RATES))
TARGETS = ("qkv", "out", "up", "down", "embedding")
WIDER_RATES = (8e-3, 1.1e-2, 1.6e-2, 2.2e-2)
WIDER = tuple(
    Way("lora", (DEPTH,), WIDER_RATES, AdapterConfig(rank=rank, targets=TARGETS)) for rank in (RANK, 2 * RANK)
)


@dataclass(frozen=True)
class Study:
    """Runs whose rows are of one ``kind``: the ways to train for each task, and the depths of evaluation."""

    kind: str
    runs: tuple[tuple[Text, tuple[Way, ...]], ...]
    depths: tuple[int, ...]
    precision: Literal["fp32", "bf16"]


GAINS = Study("gain", ((SST2, (LORA_LONG, FULL)), (GSM8K, (LORA, FULL, *WIDER))), (DEPTH,), "bf16")


def run(base: Path, study: Study, text: Text, way: Way, rate: float, seed: int) -> Row:
    """Train one way once and return its metrics at the study's depths before and after."""
    alone()
    tokenizer, sets, model = load_tokenizer(base), text.sets(), odeformer.load(base)
    torch.manual_seed(seed)
    tuned: Any = model
    if way.method == "lora":
        tuned = Tuned(FrozenBase(model), Adapter(way.adapter, model.config))
    else:
        model.requires_grad_(True)

    def at_all_depths() -> dict[str, dict[str, float]]:
        engine = AsEngine(tuned, study.precision)
        return {
            str(n): scores(engine, sets, tokenizer, text.sequence_length, 2 * text.batch, n)
            for n in study.depths
        }

    before = at_all_depths()
    stream = text.stream(tokenizer, text.batch, seed)
    train = train_settings(
        text.steps, text.batch, precision=study.precision, depths=way.depths, validate_every=text.steps
    )
    train_here(tuned, stream, train, OptimSettings(learning_rate=rate, weight_decay=0.0), seed)
    return {
        "kind": study.kind,
        "task": text.name,
        "way": way.name,
        "method": way.method,
        "depths": list(way.depths),
        "seed": seed,
        "learning_rate": rate,
        "steps": text.steps,
        "trained": sum(p.numel() for p in tuned.parameters() if p.requires_grad),
        "parameters": sum(p.numel() for p in model.parameters()),
        "before": before,
        "after": at_all_depths(),
    }


def missing(base: Path, study: Study, seeds: int, rows: list[Row]) -> Iterator[Row]:
    """Train every run of a study that is not in ``rows``, which grows meanwhile.

    The first seed is trained at rising learning rates until it gets worse, the others at its best one.
    """
    for seed in range(seeds):
        for text, ways in study.runs:
            for way in ways:
                best = float("inf")
                for rate in way.rates if seed == 0 else [best_rate(rows, study, text, way)]:
                    row = find(rows, study, text, way, rate, seed)
                    if row is None:
                        row = run(base, study, text, way, rate, seed)
                        yield row
                    if error(row) > best:
                        break
                    best = error(row)


def find(rows: list[Row], study: Study, text: Text, way: Way, rate: float, seed: int) -> Row | None:
    """The row of that run, or None if it is missing."""
    wanted = {"task": text.name, "way": way.name, "learning_rate": rate, "seed": seed, "steps": text.steps}
    return next(iter(select(rows, kind=study.kind, **wanted)), None)


def chosen(rows: Sequence[Row], study: Study, text: Text, way: Way) -> dict[int, Row]:
    """The rows of a way by seed, at the learning rate that was best for the first seed."""
    of_way = select(rows, kind=study.kind, task=text.name, way=way.name)
    if not select(of_way, seed=0):
        return {}
    rate = best_rate(of_way, study, text, way)
    return {row["seed"]: row for row in select(of_way, learning_rate=rate)}


def best_rate(rows: Sequence[Row], study: Study, text: Text, way: Way) -> float:
    """The best learning rate of the first seed."""
    tried = select(rows, kind=study.kind, task=text.name, way=way.name, seed=0)
    return float(min(tried, key=error)["learning_rate"])


def error(row: Row) -> float:
    """The error that a learning rate is chosen by: wrong labels, or the loss, at the training depths."""
    after = [row["after"][str(n)] for n in row["depths"]]
    return sum(1 - at["accuracy"] if "accuracy" in at else at["loss"] for at in after) / len(after)
