"""Scores of the LM Evaluation Harness: the exported layers of a depth against the model itself at that depth.

    python -m benchmarks.quality.harness --model DIR --json OUT [--depth N ...] [--limit N]

Both are loaded by ``AutoModelForCausalLM``: the export as an ordinary transformer, the checkpoint through
``odeformer.interop.hf.automodel``. The tasks are those that come with the command line and, where
``ODEFORMER_DATA`` has SST-2, the sentiment of its sentences. The two differ by rounding only, because an
exported layer's weights include its step size.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import odeformer
import odeformer.interop.hf.automodel
from benchmarks import bench
from benchmarks.bench import Row
from launcher.evaluation.lm_eval import Tasks, harness_model, ordinary, task_scores
from odeformer.model import Odeformer

SST2 = """
task: sst2_here
dataset_path: json
dataset_kwargs: {data_files: {test: sst2.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{sentence}}\\nsentiment:"
doc_to_choice: [negative, positive]
doc_to_target: label
target_delimiter: " "
metric_list: [{metric: acc}]
"""


def main() -> None:
    """Evaluate both models at each depth, print the scores and write them."""
    parser = bench.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--depth", type=int, action="append", help="depth N (default: 4, 8 and 16)")
    parser.add_argument("--limit", type=int, help="number of questions of each task (default: all)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, rows = odeformer.load(arguments.model), []
    with tempfile.TemporaryDirectory() as folder:
        asked = [Tasks(["python_stdlib"]), *sst2(Path(folder))]
        for depth in arguments.depth or [4, 8, 16]:
            for row in compare(model, arguments.model, depth, asked, arguments.limit, Path(folder)):
                rows.append(row)
                bench.print_row(row)
    content = {
        "rows": rows,
        "identical": all(row["identical"] for row in rows),
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {name: version(name) for name in ("lm_eval", "transformers", "torch")},
        **bench.stamp(note="1 thread"),
    }
    print(f"identical: {content['identical']}")
    bench.save(arguments.json, content)


def sst2(folder: Path) -> Iterator[Tasks]:
    """A task from the sentences of SST-2's development set, if ``ODEFORMER_DATA`` has them."""
    source = Path(os.environ.get("ODEFORMER_DATA", "nowhere"), "sst2", "dev.tsv")
    if source.is_file():
        pairs = [line.rsplit("\t", 1) for line in source.read_text(encoding="utf-8").splitlines()]
        rows = [{"sentence": sentence, "label": int(label)} for sentence, label in pairs if label in "01"]
        (folder / "sst2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "sst2.yaml").write_text(SST2)
        yield Tasks(["sst2_here"], folder)


def compare(
    model: Odeformer, checkpoint: Path, depth: int, asked: list[Tasks], limit: int | None, folder: Path
) -> list[Row]:
    """A row for every metric: both scores, and how far the underlying answers are apart."""
    exported = ordinary(model, checkpoint / "tokenizer.json", depth, folder / f"exported-{depth}")
    continuous = harness_model(checkpoint, depth=depth)
    rows = []
    for tasks in asked:
        theirs, ours = tasks.ask(exported, limit), tasks.ask(continuous, limit)
        for one, other in zip(task_scores(theirs, depth), task_scores(ours, depth), strict=True):
            apart, chosen, count = differences(theirs["samples"][one.task], ours["samples"][one.task])
            rows.append(
                {
                    "task": one.task,
                    "metric": one.metric,
                    "depth": depth,
                    "samples": one.samples,
                    "truncated": one.truncated,
                    "exported": one.value,
                    "continuous": other.value,
                    # Accuracies must be the same number; likelihoods may differ by rounding.
                    "identical": one.value == other.value
                    or (not one.metric.startswith("acc") and abs(one.value / other.value - 1) < 1e-4),
                    "answers": count,
                    "other_decisions": chosen,
                    "loglikelihood_difference": apart,
                }
            )
    return rows


def differences(ones: list[dict[str, Any]], others: list[dict[str, Any]]) -> tuple[float, int, int]:
    """The largest difference of log-likelihoods in nats, the number of other decisions, and of answers."""
    answers = [
        (answer, other)
        for a, b in zip(ones, others, strict=True)
        for answer, other in zip(a["filtered_resps"], b["filtered_resps"], strict=True)
    ]
    # A rolling task answers with a log-likelihood; the others also say whether it is the likeliest.
    pairs = [[x if isinstance(x, tuple | list) else (x, None) for x in pair] for pair in answers]
    apart = max(abs(one[0] - other[0]) for one, other in pairs)
    return apart, sum(one[1] != other[1] for one, other in pairs), len(pairs)


if __name__ == "__main__":
    main()
