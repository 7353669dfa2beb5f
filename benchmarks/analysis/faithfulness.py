"""The faithfulness of attributions: tokens are deleted or inserted, and the answer is observed.

    python -m benchmarks.analysis.faithfulness --json benchmarks/results/faithfulness.json

A small base is trained beside the JSON, or loaded from there. Prompts are the first 32 tokens of held-out
sequences; the answer to each is the model's likeliest token. Every method of
:mod:`odeformer.analysis.answers.attribution` scores the same prompts. Methods that are in the file are not
measured again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

import odeformer
from benchmarks import bench
from benchmarks.adapters.base import pretrained
from benchmarks.analysis.pages import judge
from benchmarks.bench import Results
from benchmarks.in_process import open_stream
from cluster.training.validation import sample_rows
from odeformer.analysis.answers.attribution import METHODS, Question
from odeformer.analysis.answers.faithfulness import Faithfulness, faithfulness, leave_one_out

PROMPT = 32
HELD_OUT = 0.05
"""The held-out fraction of the texts, which has more than 256 sequences."""
AT_ONCE = 8
"""Prompts in a batch, as the published surrogate holds a Jacobian for every token of each."""


def main() -> None:
    """Train the base if it is missing, measure every missing method and write the table."""
    parser = bench.parser(__doc__)
    parser.add_argument("--prompts", type=int, default=256, help="number of prompts")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    folder = arguments.json.with_suffix(".work")
    folder.mkdir(parents=True, exist_ok=True)
    base = pretrained(folder, HELD_OUT)
    table = Results(arguments.json)
    table.describe(folder / "shards", prompts=arguments.prompts, prompt_tokens=PROMPT)
    asked = questions(base, folder / "shards", arguments.prompts)
    truth = [leave_one_out(question) for question in asked]
    for name in METHODS:
        if table.find(method=name) is None:
            table.add({"method": name, **scored(name, asked, truth)})
            print(f"{name}: measured", flush=True)
    table.write(judgement=judge(table.rows))


def questions(base: Path, shards: Path, count: int) -> list[Question]:
    """The first tokens of held-out sequences with the model's likeliest next token."""
    model = odeformer.load(base)
    rows = sample_rows(open_stream(shards, "validation", AT_ONCE), count)[:, :PROMPT]
    with torch.no_grad():
        answers = torch.cat([model(few).logits[:, -1].argmax(-1) for few in rows.split(AT_ONCE)])
    return [
        Question(model, few, answer)
        for few, answer in zip(rows.split(AT_ONCE), answers.split(AT_ONCE), strict=True)
    ]


def scored(name: str, asked: list[Question], truth: list[torch.Tensor]) -> dict[str, Any]:
    """The three figures of a method for every prompt."""
    results = [
        faithfulness(question, METHODS[name](question), without)
        for question, without in zip(asked, truth, strict=True)
    ]
    return {
        field: [round(float(value), 5) for result in results for value in getattr(result, field)]
        for field in Faithfulness._fields
    }


if __name__ == "__main__":
    main()
