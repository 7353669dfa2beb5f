"""Conversations packed into rows against one a row: tokens per second, and the loss that comes of it.

    ODEFORMER_DATA=FOLDER python -m benchmarks.adapters.packing --json benchmarks/results/packing.json

Questions and answers of GSM8K as conversations, with the default template and a tokenizer of 2,048 tokens
that is trained on them. A model of width 64 and D = 4 is trained on them from nothing, by the product's loop
on one core; in both ways a step sees about 16 conversations, and rows are as long as the longest of all.
Both ways take turns, seed by seed. Seconds are those of the processor, between the two validations.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import bench
from benchmarks.bench import Row
from benchmarks.in_process import train_in, train_settings
from benchmarks.quality.claims import half_interval
from cluster.settings import OptimSettings, RunSettings
from cluster.tasks.scoring import scores
from data.chat import ChatTemplate
from data.tasks.chats import Conversation, tokenized
from data.tasks.example import Window
from data.tasks.examples import TaskSets
from data.tasks.kinds import Rows
from data.tasks.stream import TaskStream
from data.tokenizer import train_tokenizer
from odeformer.config import BasisConfig, ModelConfig
from odeformer.model import Odeformer

TRAINED, VALIDATED, STEPS, CONVERSATIONS, SEEDS = 1000, 60, 30, 16, 3
WAYS: dict[str, Rows] = {"one a row": "windows", "packed": "packed"}
BAR = 1.5


def conversations(name: str, count: int) -> list[Conversation]:
    """The first questions of a file of GSM8K with their answers."""
    lines = (Path(os.environ["ODEFORMER_DATA"]) / "gsm8k" / name).read_text(encoding="utf-8").splitlines()
    rows = map(json.loads, lines[:count])
    asked = (("user", "question"), ("assistant", "answer"))
    return [Conversation([{"role": role, "content": row[field]} for role, field in asked]) for row in rows]


def run(
    way: str, seed: int, train: list[Window], validation: list[Window], tokenizer: Any, folder: Path
) -> Row:
    """Train once, and return the speed and the loss after training."""
    length, marks = max(len(window.counts) for window in train), []
    config = ModelConfig(
        width=64, heads=4, depth=4, vocabulary_size=2048, context_length=length, basis=BasisConfig(size=4)
    )
    torch.manual_seed(seed)
    place: dict[str, Any] = {"rank": 0, "world_size": 1, "sequence_length": length, "seed": seed}
    stream = TaskStream(train, tokenizer, rows=WAYS[way], global_batch=1, **place)
    rows = max(1, round(CONVERSATIONS * stream.sequences / len(train)))
    stream = TaskStream(train, tokenizer, rows=WAYS[way], global_batch=rows, **place)

    def validate(engine: Any) -> dict[str, float]:
        marks.append(time.process_time())
        found = scores(engine, TaskSets([], validation, []), tokenizer, length, CONVERSATIONS)
        marks.append(time.process_time())
        return found

    _, events = train_in(
        RunSettings(dir=folder, seed=seed),
        Odeformer(config),
        stream,
        train_settings(STEPS, rows, validate_every=STEPS),
        OptimSettings(learning_rate=5e-3),
        commit_every=STEPS,
        validate=validate,
    )
    tokens = sum(len(window.ids) for window in train)
    return {
        "way": way,
        "seed": seed,
        "rows": rows,
        "length": length,
        "filled": tokens / (stream.sequences * length),
        "tokens_per_second": STEPS * rows * tokens / stream.sequences / (marks[2] - marks[1]),
        "loss": bench.select(events, event="validation")[-1]["loss"],
    }


def main() -> None:
    """Measure the missing runs, and write the claims."""
    arguments = bench.parser(__doc__).parse_args()
    train, validation = conversations("train.jsonl", TRAINED), conversations("test.jsonl", VALIDATED)
    tokenizer = train_tokenizer((m["content"] for each in train for m in each.messages), 2048)
    chat = ChatTemplate.of(tokenizer, {})
    windows = [[tokenized(each, chat) for each in part] for part in (train, validation)]
    results, work = bench.Results(arguments.json), arguments.json.with_suffix(".work")
    for seed in range(SEEDS):
        for way in WAYS:
            if results.find(way=way, seed=seed) is None:
                results.add(run(way, seed, windows[0], windows[1], tokenizer, work / f"{way}-{seed}"))
                bench.print_row(results.rows[-1])
    results.write(**bench.stamp("torch"))
    bench.print_claims(claims(results.rows))


def claims(rows: list[Row]) -> list[bench.Claim]:
    """The two claims that the rows say something of."""
    single, packed = ([row for row in rows if row["way"] == way] for way in WAYS)
    ratio = statistics.median(
        b["tokens_per_second"] / a["tokens_per_second"] for a, b in zip(single, packed, strict=True)
    )
    differences = [b["loss"] - a["loss"] for a, b in zip(single, packed, strict=True)]
    mean, half = statistics.mean(differences), half_interval(differences)
    return [
        bench.ratio_claim("packed conversations against one a row: tokens per second", ratio, f"≥ {BAR}"),
        bench.judged(
            "loss after as many conversations, packed less one a row, in nats per token",
            "0 within the interval",
            f"{mean:+.3f} ± {half:.3f}",
            abs(mean) <= half,
        ),
    ]


def part(content: dict[str, Any]) -> str:
    """The claims, and what the rows were like."""
    packed = bench.select(content["rows"], way="packed")[0]
    alone = bench.select(content["rows"], way="one a row")[0]
    said = (
        f"Questions and answers of GSM8K, rows of {packed['length']} tokens, {SEEDS} seeds: packed rows are "
        f"{packed['filled']:.0%} full, and {alone['filled']:.0%} with one conversation in each. "
        f"{bench.measured_by('adapters.packing', 'packing')} {bench.measured_on(content).capitalize()}."
    )
    return f"{said}\n\n{bench.claims_table(claims(content['rows']))}"


if __name__ == "__main__":
    main()
