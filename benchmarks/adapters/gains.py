"""How much better a base gets at a task: by an adapter, and by full fine-tuning, at one depth or several."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import odeformer
from benchmarks.in_process import AsEngine, alone
from benchmarks.quality_rows import DEPTH
from cluster.settings import CheckpointSettings, OptimSettings, RunSettings, TrainSettings, ZeroSettings
from cluster.tasks.scoring import scores
from cluster.training import worker
from data.tasks.examples import TaskSets, read_task_sets
from data.tasks.stream import TaskStream
from data.tokenizer import load_tokenizer
from odeformer.config import AdapterConfig
from odeformer.frozen import FrozenBase, Tuned
from odeformer.lora import Adapter

DEPTHS = (DEPTH // 2, DEPTH, 2 * DEPTH)
"""That every row is scored at."""
RANK = 8
ADAPTER = AdapterConfig(rank=RANK)


@dataclass(frozen=True)
class Text:
    """A task, and how long it is trained."""

    name: str
    kind: str
    train: str
    validation: str
    prompt: str
    completion: str
    sequence_length: int
    batch: int
    scored: int
    """The first so many validation examples."""
    steps: int = 150

    def sets(self) -> TaskSets:
        """Read from ``ODEFORMER_DATA``."""
        folder = Path(os.environ["ODEFORMER_DATA"])
        read = read_task_sets(
            folder / self.train, folder / self.validation, self.kind, self.prompt, self.completion
        )
        return TaskSets(read.train, read.validation[: self.scored], read.labels)


GSM8K = Text(
    "GSM8K", "completion", "gsm8k/train.jsonl", "gsm8k/test.jsonl", "{question}\n", "{answer}", 128, 8, 80
)
SST2 = Text(
    "SST-2", "classification", "sst2/train.tsv", "sst2/dev.tsv", "{0}\n", "{1}", 64, 16, 300, steps=1200
)
"""Long: what an adapter learns of it in 150 steps is that an answer is one of two words, not which."""


@dataclass(frozen=True)
class Way:
    """A method, and the depths that its batches are drawn from."""

    method: str
    depths: tuple[int, ...]
    rates: tuple[float, ...]
    """Rising: tried with the first seed until it gets worse."""
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
VARYING = Way("lora", DEPTHS, LORA_RATES)
FIXED = {n: LORA if n == DEPTH else Way("lora", (n,), LORA_RATES) for n in DEPTHS}
RUNS = (
    (SST2, (LORA_LONG, FULL)),
    (GSM8K, (LORA, FULL, *WIDER, VARYING, *(way for way in FIXED.values() if way != LORA))),
)


def run(base: Path, text: Text, way: Way, rate: float, seed: int) -> dict[str, Any]:
    """Train one way once; the metrics at every depth before and after."""
    alone()
    tokenizer, sets, model = load_tokenizer(base), text.sets(), odeformer.load(base)
    torch.manual_seed(seed)
    tuned: Any = model
    if way.method == "lora":
        tuned = Tuned(FrozenBase(model), Adapter(way.adapter, model.config))
    else:
        model.requires_grad_(True)

    def at_all_depths() -> dict[str, dict[str, float]]:
        engine = AsEngine(tuned)
        return {
            str(n): scores(engine, sets, tokenizer, text.sequence_length, 2 * text.batch, n) for n in DEPTHS
        }

    before = at_all_depths()
    with tempfile.TemporaryDirectory() as folder:
        worker.train(
            worker.Work(
                model=tuned,
                stream=TaskStream(
                    sets.train,
                    tokenizer,
                    rank=0,
                    world_size=1,
                    global_batch=text.batch,
                    sequence_length=text.sequence_length,
                    seed=seed,
                ),
                validate=lambda engine: {},
                report=lambda event, step, values: None,
                run=RunSettings(dir=Path(folder), seed=seed),
                train=TrainSettings(
                    steps=text.steps,
                    global_batch=text.batch,
                    micro_batch=text.batch,
                    gradient="direct",
                    precision="bf16",
                    depths=way.depths,
                    validate_every=text.steps,
                ),
                optim=OptimSettings(learning_rate=rate, weight_decay=0.0),
                zero=ZeroSettings(stage=0),
                checkpoint=CheckpointSettings(every=text.steps),
            )
        )
    return {
        "kind": "gain",
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


def run_all(
    base: Path, seeds: int, known: Callable[[], list[dict[str, Any]]], add: Callable[..., None]
) -> None:
    """Every run that is missing: the first seed at rising rates, the others at its best."""
    for seed in range(seeds):
        for text, ways in RUNS:
            for way in ways:
                best = float("inf")
                for rate in way.rates if seed == 0 else [best_rate(known(), text, way)]:
                    row = find(known(), text, way, rate, seed)
                    if row is None:
                        row = run(base, text, way, rate, seed)
                        add(row)
                    if error(row) > best:
                        break
                    best = error(row)


def find(rows: list[dict[str, Any]], text: Text, way: Way, rate: float, seed: int) -> dict[str, Any] | None:
    """That run's row, if it is there."""
    wanted = (text.name, way.name, rate, seed, text.steps)
    for row in rows:
        if row["kind"] == "gain" and wanted == tuple(
            row[key] for key in ("task", "way", "learning_rate", "seed", "steps")
        ):
            return row
    return None


def error(row: dict[str, Any]) -> float:
    """What a way's rate is chosen by, at the depths that it is trained at: wrong labels, else the loss."""
    after = [row["after"][str(n)] for n in row["depths"]]
    return sum(1 - at["accuracy"] if "accuracy" in at else at["loss"] for at in after) / len(after)


def best_rate(rows: list[dict[str, Any]], text: Text, way: Way) -> float:
    """The first seed's."""
    tried = [
        row for row in rows if (row.get("task"), row.get("way"), row.get("seed")) == (text.name, way.name, 0)
    ]
    return float(min(tried, key=error)["learning_rate"])
