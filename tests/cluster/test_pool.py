"""The pool on a real Ray cluster: its own resources, and a job that is killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from small_runs import tiny_shape

from cluster import registry, tracking
from cluster.connect import FINETUNE, PRETRAIN, ray_cluster
from cluster.pool import Pool
from cluster.settings import Task
from data.tokenizer import train_tokenizer
from odeformer import checkpoint
from odeformer.model import Odeformer


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A store with an untrained base model, ``models:/base@champion``."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config = tiny_shape(vocabulary_size=300, context_length=32)
    torch.manual_seed(0)
    train_tokenizer(["red blue green yes no"] * 10, 300).save(str(tmp_path / "tokenizer.json"))
    state = Odeformer(config).state_dict()
    checkpoint.save(state, config, "euler", tmp_path / "tokenizer.json", tmp_path / "base")
    run_id = tracking.start_run(uri, "test", "base", {}, tmp_path / "base-run")
    tags = {"odeformer.kind": "checkpoint"}
    registry.register(tmp_path / "base", "base", run_id=run_id, uri=uri, tags=tags, alias="champion")
    return uri


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., Task]:
    """A factory of tasks that tell a colour from an answer."""
    pairs = [("red", "colour"), ("yes", "answer"), ("blue", "colour"), ("no", "answer")] * 4
    for split in ("train", "validation"):
        rows = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in pairs)
        (tmp_path / f"{split}.jsonl").write_text(rows)

    def make(team: str, steps: int, **changes: Any) -> Task:
        content = {
            "name": "kind",
            "team": team,
            "base": "models:/base@champion",
            "kind": "classification",
            "data": {
                "train": tmp_path / "train.jsonl",
                "validation": tmp_path / "validation.jsonl",
                "prompt": "{text} ",
                "completion": "{label}",
            },
            "train": {"steps": steps, "global_batch": 8, "learning_rate": 0.02},
        }
        return Task.model_validate({**content, **changes})

    return make


def test_a_killed_job_fails_alone_and_jobs_keep_to_their_slots(
    uri: str, task: Callable[..., Task], tmp_path: Path
) -> None:
    import ray

    with ray_cluster(None, pretrain_workers=1, finetune_slots=1):
        pool = Pool.connect(tmp_path / "jobs", uri)
        doomed, waiting = pool.submit(task("doomed", steps=100_000)), pool.submit(task("waiting", steps=20))
        process = None
        deadline = time.monotonic() + 90
        while process is None or not list((tmp_path / "jobs" / "doomed").glob("*/events.jsonl")):
            assert time.monotonic() < deadline
            names = {p: p.name() for p in psutil.Process().children(recursive=True)}
            running = [p for p, name in names.items() if name.startswith("ray::run_job")]
            assert len(running) <= 1, "one slot, one job"
            process = running[0] if running else None
            time.sleep(0.2)
        states = {job["id"]: job["state"] for job in pool.jobs()}
        assert states == {doomed: "running", waiting: "queued"}
        assert ray.available_resources()[PRETRAIN] == 1
        assert FINETUNE not in ray.available_resources()
        process.kill()
        first, second = pool.wait(doomed, waiting)
    assert first["state"] == "failed"
    assert first["error"] == "its process died (killed, or out of memory)"
    assert second["state"] == "succeeded", second["error"]
    assert second["result"]["after"] > second["result"]["before"]
    registered = {version.name for version in registry.versions(uri)}
    assert registered == {"base", "base-waiting-kind"}


def test_what_cannot_run_is_refused_before_it_is_queued(
    uri: str, task: Callable[..., Task], tmp_path: Path
) -> None:
    from cluster import finetune

    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "one", "label": "number"}\n{"text": "yes", "label": "answer"}\n')
    with pytest.raises(ValueError, match="label 'number' does not occur in"):
        finetune.check(task("a", 1, data={**task("a", 1).data.model_dump(), "validation": other}), uri)
    with pytest.raises(ValueError, match="there are: models:/base"):
        finetune.check(task("a", 1, base="models:/missing@champion"), uri)
    with pytest.raises(ValueError, match="no field 'nothing'"):
        finetune.check(task("a", 1, data={**task("a", 1).data.model_dump(), "prompt": "{nothing}"}), uri)
    checked = finetune.check(task("a", 1), uri)
    assert checked.base == "models:/base/1", "a job keeps the version its alias stood for"


def test_clusters_of_one_process_have_each_their_own_token(tmp_path: Path) -> None:
    """Ray reads its token once per process; the second cluster would be locked out by the first one's."""
    import os

    tokens = []
    for _ in range(2):
        with ray_cluster(None, finetune_slots=1):
            tokens.append(os.environ["RAY_AUTH_TOKEN"])
    assert len(set(tokens)) == 2
