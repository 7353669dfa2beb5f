"""CONTRIBUTING.md's new solver, gradient, flavour, coefficients and kind of task, trained together."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import torch
from empty_store import empty_store
from forked import spawn
from small_runs import tiny_shape

from cluster import registry
from cluster.finetuning import job
from cluster.tasks.task import Task
from cluster.tracking import runs
from data.tokenizer import train_tokenizer
from odeformer import checkpoint
from odeformer.config import BasisConfig
from odeformer.model import Odeformer

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"
PARTS = ("ralston", "whole", "squared_relu", "cosines", "lines")


def train_with_all(index: int, folder: Path, uri: str) -> None:
    """Register a base of the new flavour and functions; fine-tune it by the new solver, method and kind."""
    torch.set_num_threads(1)
    sys.path.insert(0, str(folder))
    for name in PARTS:
        importlib.import_module(name)
    shape = tiny_shape(vocabulary_size=300, context_length=32).model_copy(
        update={"flavour": "squared_relu", "basis": BasisConfig(kind="cosines", size=3)}
    )
    train_tokenizer(["red blue green yes no"] * 10, 300).save(str(folder / "tokenizer.json"))
    checkpoint.save(
        Odeformer(shape).state_dict(), shape, "ralston", folder / "tokenizer.json", folder / "base"
    )
    run_id = runs.start_run(uri, "test", "base", {}, folder / "base-run")
    kind = {"odeformer.kind": "checkpoint"}
    registry.register_version(folder / "base", "base", run_id=run_id, uri=uri, tags=kind, alias="champion")
    (folder / "a.lines").write_text("red and blue\nyes or no\n" * 4)
    task = Task.model_validate(
        {
            "name": "lines",
            "team": "a",
            "base": "models:/base/1",
            "kind": "lines",
            "data": {"train": folder / "a.lines", "validation": folder / "a.lines"},
            "method": "full",
            "train": {"steps": 3, "gradient": "whole", "learning_rate": 0.01},
        }
    )
    result = job.finetune(job.check(task, uri), folder / "job", uri)
    tuned = registry.load("models:/base--a--lines/1", uri).model
    (folder / "result.json").write_text(
        json.dumps([result.before, result.after, tuned.solver, tuned.config.flavour, tuned.config.basis.kind])
    )


def test_each_is_a_file_and_an_entry(tmp_path: Path) -> None:
    blocks = dict(re.findall(r"```python\n# (\w+)\.py[^\n]*\n(.*?)```", CONTRIBUTING.read_text(), re.DOTALL))
    assert tuple(blocks) == PARTS
    for name, code in blocks.items():
        (tmp_path / f"{name}.py").write_text(code)
    spawn(train_with_all, args=(tmp_path, empty_store(tmp_path)))
    before, after, *parts = json.loads((tmp_path / "result.json").read_text())
    assert after < before
    assert parts == ["ralston", "squared_relu", "cosines"]
