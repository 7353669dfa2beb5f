"""Which method's picture of an answer tells the truth: tokens are taken away, and the answer is watched.

    python -m benchmarks.faithfulness --json benchmarks/results/faithfulness.json

A small base is trained beside the JSON, or taken from there. Prompts are the first 32 tokens of held-out
sequences, the answer of each is what the model finds likeliest. Every method of
:mod:`odeformer.analysis.answers.attribution` scores the same prompts.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch

import odeformer
from benchmarks.adapters.base import pretrained
from benchmarks.faithfulness_tables import judged
from benchmarks.in_process import open_stream
from benchmarks.rows_file import RowsFile
from cluster.training.validation import sample_rows
from odeformer.analysis.answers.attribution import METHODS, Question
from odeformer.analysis.answers.faithfulness import Faithfulness, faithfulness, leave_one_out

PROMPT = 32
HELD_OUT = 0.05
"""Of the texts: 256 sequences and more."""
AT_ONCE = 8
"""Prompts: the published surrogate holds a Jacobian for every token of each."""


def main() -> None:
    """Train the base where it is missing, ask every method, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="the table; methods in it are not run again")
    parser.add_argument("--prompts", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    folder = arguments.json.with_suffix(".work")
    folder.mkdir(parents=True, exist_ok=True)
    base = pretrained(folder, HELD_OUT)
    table = RowsFile(arguments.json)
    table.describe(folder / "shards", prompts=arguments.prompts, prompt_tokens=PROMPT)
    asked = questions(base, folder / "shards", arguments.prompts)
    truth = [leave_one_out(question) for question in asked]
    there = {row["method"] for row in table.rows}
    for name in METHODS:
        if name not in there:
            table.add({"method": name, **scored(name, asked, truth)})
            print(f"{name}: asked", flush=True)
    table.write(**judged(table.rows))


def questions(base: Path, shards: Path, count: int) -> list[Question]:
    """The first tokens of held-out sequences, and what the model goes on with."""
    model = odeformer.load(base)
    rows = sample_rows(open_stream(shards, "validation", AT_ONCE), count)[:, :PROMPT]
    with torch.no_grad():
        answers = torch.cat([model(few).logits[:, -1].argmax(-1) for few in rows.split(AT_ONCE)])
    return [
        Question(model, few, answer)
        for few, answer in zip(rows.split(AT_ONCE), answers.split(AT_ONCE), strict=True)
    ]


def scored(name: str, asked: list[Question], truth: list[torch.Tensor]) -> dict[str, Any]:
    """Of one method, its three figures for every prompt."""
    found = [
        faithfulness(question, METHODS[name](question), without)
        for question, without in zip(asked, truth, strict=True)
    ]
    return {
        field: [round(float(value), 5) for part in found for value in getattr(part, field)]
        for field in Faithfulness._fields
    }


if __name__ == "__main__":
    main()
