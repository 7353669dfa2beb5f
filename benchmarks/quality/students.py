"""Students: smaller models trained on a teacher's predictions against the same models from scratch.

    python -m benchmarks.quality.students --json benchmarks/results/students.json
    python -m benchmarks.quality.students --json OUT --quick     # fewer tokens

The teacher is an any-depth model of width 96, D = 4 and K = 4, trained on four times the students' tokens.
Each student sees the same tokens in the same order, from the same initial weights, from scratch and
distilled, with each seed. The interval is that of the paired differences over the seeds (Student's t, 95 %).
"""

from __future__ import annotations

import shutil
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks import bench
from benchmarks.in_process import SEQUENCE_LENGTH, open_stream, train_in, train_settings
from benchmarks.quality.students_pages import DEPTH, DISTILLED, SCRATCH, STUDENTS, TEACHER, judged
from benchmarks.texts import benchmark_texts
from cluster.settings import OptimSettings, RunSettings
from cluster.training.teacher import Teacher
from cluster.training.validation import sample_rows, validation_losses
from data.manifest import load_manifest
from data.shards import build
from odeformer import checkpoint, load
from odeformer.config import ModelConfig
from odeformer.model import Odeformer, parameter_count

BATCH, VOCABULARY = 4, 512
WEIGHT = 0.5
SEEDS = (0, 1, 2)
TOKENS, TEACHER_TOKENS = 153_600, 614_400
SHAPES: dict[str, dict[str, Any]] = {
    TEACHER: {"width": 96, "heads": 3, "basis": {"size": DEPTH}},
    STUDENTS[0]: {"width": 48, "heads": 3, "basis": {"size": DEPTH}},
    STUDENTS[1]: {"width": 96, "heads": 3, "basis": {"size": DEPTH // 4}},
}


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="train on a quarter of the tokens")
    arguments = parser.parse_args()
    part = 4 if arguments.quick else 1
    results = bench.Results(arguments.json)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        shards = scratch / "shards"
        texts = benchmark_texts(scratch)
        build(texts, shards, vocabulary_size=VOCABULARY, sequence_length=SEQUENCE_LENGTH, held_out=0.02)
        results.describe(shards, tokens=TOKENS // part, teacher_tokens=TEACHER_TOKENS // part)
        # Kept beside the results until all students are trained: a benchmark that was interrupted goes on.
        kept = arguments.json.with_suffix(".teacher")
        missing = [
            run
            for run in product(SEEDS, STUDENTS, (SCRATCH, DISTILLED))
            if results.find(seed=run[0], name=run[1], way=run[2]) is None
        ]
        if missing and not (kept / "config.json").is_file():
            row = train(SHAPES[TEACHER], shards, TEACHER_TOKENS // part, 0, scratch / "teacher", None, kept)
            if results.find(name=TEACHER) is None:
                results.add({"name": TEACHER, "way": SCRATCH, **row})
        for seed, name, way in missing:
            teacher = Teacher(load(kept), DEPTH, WEIGHT) if way == DISTILLED else None
            run_folder = scratch / f"{len(results.rows)}"
            row = train(SHAPES[name], shards, TOKENS // part, seed, run_folder, teacher)
            results.add({"name": name, "way": way, **row})
            bench.print_row(results.rows[-1])
    shutil.rmtree(kept, ignore_errors=True)
    found = judged(results.rows)
    results.write(claims=[claim._asdict() for claim in found])
    bench.print_claims(found)


def train(
    shape: dict[str, Any],
    shards: Path,
    tokens: int,
    seed: int,
    folder: Path,
    teacher: Teacher | None,
    keep: Path | None = None,
) -> bench.Row:
    """Train a model of this shape; returns its validation losses by N, in nats per token."""
    config = ModelConfig.model_validate(
        {
            **shape,
            "depth": DEPTH,
            "vocabulary_size": load_manifest(shards).vocabulary_size,
            "context_length": SEQUENCE_LENGTH,
        }
    )
    steps = tokens // (BATCH * SEQUENCE_LENGTH)
    torch.manual_seed(seed)
    engine, _ = train_in(
        RunSettings(dir=folder, seed=seed),
        Odeformer(config),
        open_stream(shards, "train", BATCH, start=seed * steps * BATCH),
        train_settings(steps, BATCH, validate_every=steps, depths=(DEPTH // 2, DEPTH), vary_from=0.75),
        OptimSettings(learning_rate=4e-3),
        commit_every=steps,
        teacher=teacher,
    )
    if keep is not None:
        state = engine.module.state_dict()
        checkpoint.save(state, config, config.default_solver, shards / "tokenizer.json", keep)
    rows = sample_rows(open_stream(shards, "validation", BATCH), 64)
    losses = validation_losses(engine, rows, (DEPTH // 2, DEPTH), 16)
    return {
        "seed": seed,
        "tokens": steps * BATCH * SEQUENCE_LENGTH,
        "parameters": parameter_count(config),
        "validation_loss": {str(n): losses[f"validation_loss_{n}"] for n in (DEPTH // 2, DEPTH)},
    }


if __name__ == "__main__":
    main()
