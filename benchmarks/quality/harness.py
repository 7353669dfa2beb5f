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
from cluster.evaluation.lm_eval import Tasks, harness_model, ordinary, task_scores
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
        (folder / "sst2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / "sst2.yaml").write_text(SST2, encoding="utf-8")
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
        for score, other in zip(task_scores(theirs, depth), task_scores(ours, depth), strict=True):
            # Accuracies must be the same number; likelihoods may differ by rounding.
            is_likelihood = not score.metric.startswith("acc")
            identical = score.value == other.value
            rows.append(
                {
                    "task": score.task,
                    "metric": score.metric,
                    "depth": depth,
                    "samples": score.samples,
                    "truncated": score.truncated,
                    "exported": score.value,
                    "continuous": other.value,
                    "identical": identical or (is_likelihood and abs(score.value / other.value - 1) < 1e-4),
                    **differences(theirs["samples"][score.task], ours["samples"][score.task]),
                }
            )
    return rows


def differences(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of answers and other decisions, and the largest difference of log-likelihoods in nats."""
    pairs = []
    for question, same in zip(theirs, ours, strict=True):
        pairs += zip(_answers(question), _answers(same), strict=True)
    return {
        "answers": len(pairs),
        "other_decisions": sum(a[1] != b[1] for a, b in pairs),
        "loglikelihood_difference": max(abs(a[0] - b[0]) for a, b in pairs),
    }


def _answers(sample: dict[str, Any]) -> list[tuple[float, bool | None]]:
    """Log-likelihoods and whether each is the likeliest, which a rolling task does not tell."""
    answers = sample["filtered_resps"]
    return [tuple(x) if isinstance(x, tuple | list) else (x, None) for x in answers]


if __name__ == "__main__":
    main()
