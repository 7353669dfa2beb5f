"""A base in a store, and tasks of seconds on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from empty_store import empty_store
from small_runs import tiny_shape

from cluster import registry
from cluster.tasks.task import Task
from cluster.tracking import runs
from data.tokenizer import train_tokenizer
from odeformer import checkpoint
from odeformer.model import Odeformer

PAIRS = [("red", "colour"), ("yes", "answer"), ("blue", "colour"), ("no", "answer")]


def base_folder(folder: Path, name: str = "base", seed: int = 0) -> Path:
    """An untrained model of D = 4 that has a context of 32 tokens."""
    config = tiny_shape(vocabulary_size=300, context_length=32)
    torch.manual_seed(seed)
    train_tokenizer(["red blue green yes no"] * 10, 300).save(str(folder / "tokenizer.json"))
    state = Odeformer(config).state_dict()
    checkpoint.save(state, config, "euler", folder / "tokenizer.json", folder / name)
    return folder / name


def register_base(folder: Path, uri: str | None = None, name: str = "base", seed: int = 0) -> str:
    """Register one as ``models:/base@champion``, version 1; the store, else a file in the folder."""
    uri = uri or empty_store(folder)
    made = base_folder(folder, name, seed)
    run_id = runs.start_run(uri, "test", name, {}, folder / f"{name}-run")
    tags = {"odeformer.kind": "checkpoint"}
    registry.register_version(made, name, run_id=run_id, uri=uri, tags=tags, alias="champion")
    return uri


def a_task(folder: Path, team: str = "a", name: str = "kind", steps: int = 4, **changes: Any) -> Task:
    """Tell a colour from an answer; ``train`` adds to its settings."""
    for split in ("train", "validation"):
        if not (folder / f"{split}.jsonl").exists():
            rows = [json.dumps({"text": text, "label": label}) + "\n" for text, label in PAIRS * 4]
            (folder / f"{split}.jsonl").write_text("".join(rows))
    train = {"steps": steps, "global_batch": 8, "learning_rate": 0.02, **changes.pop("train", {})}
    content = {
        "name": name,
        "team": team,
        "base": "models:/base@champion",
        "kind": "classification",
        "data": {
            "train": folder / "train.jsonl",
            "validation": folder / "validation.jsonl",
            "prompt": "{text} ",
            "completion": "{label}",
        },
        "train": train,
    }
    return Task.model_validate({**content, **changes})


def small_task(folder: Path, name: str, steps: int = 12, **changes: Any) -> Task:
    """The same for :func:`cluster.finetuning.job.finetune`, which wants a version."""
    return a_task(folder, "small", name, steps, **{"base": "models:/base/1", **changes})
