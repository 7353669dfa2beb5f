"""``odeformer pretrain --dry-run`` on real shards and on a real cluster."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from forked import run
from small_runs import small_settings

from cluster.connection.connect import ray_cluster
from cluster.supervision.room import places
from cluster.training.memory import worker_memory


def dry_run(folder: Path, *arguments: str) -> str:
    done = run("pretrain", "config.json", "--dry-run", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(shards: Path, tmp_path: Path) -> Path:
    """A folder with the ``config.json`` of a run of two workers."""
    (tmp_path / "config.json").write_text(small_settings(shards, tmp_path).model_dump_json())
    return tmp_path


def test_it_previews_a_run_and_starts_nothing(folder: Path, shards: Path) -> None:
    found: dict[str, Any] = json.loads(dry_run(folder, "--json", "--set", "zero.stage=2"))
    settings = small_settings(shards, folder, zero={"stage": 2})
    assert found["settings"] == settings.model_dump(mode="json")
    assert found["settings"]["model"]["vocabulary_size"] == 400, "as the shards have it"
    assert found["memory"] == worker_memory(settings)._asdict()
    assert found["deepspeed"]["gradient_accumulation_steps"] == 2
    assert found["placement"]["each"] == {"CPU": 1.0, "pretrain": 1.0}
    assert {path.name for path in folder.iterdir()} == {"config.json"}

    shown = dry_run(folder).splitlines()
    assert (
        "a step: 8 sequences of 32 tokens = 2 workers × micro-batches of 2 × gradient accumulation 2" in shown
    )
    assert "placement: 2 workers with 1 CPU, 1 pretrain each" in shown
    [together] = [line.split() for line in shown if line.startswith("together")]
    assert float(together[1]) == pytest.approx(sum(worker_memory(settings).device.values()) / 2**20, rel=0.1)


@pytest.mark.slow
def test_it_asks_a_cluster_what_it_has(folder: Path) -> None:
    import ray

    with ray_cluster(None, pretrain_workers=1):
        address = ray.get_runtime_context().gcs_address
        assert os.environ["RAY_AUTH_TOKEN"], "by which the command is let in"
        found = json.loads(dry_run(folder, "--json", "--set", f"cluster.address={address}"))
    [node] = found["placement"]["nodes"]
    assert node["workers"] == 1
    assert node["resources"] == {"CPU": 1.0, "pretrain": 1.0}
    assert found["placement"]["lacks"] == "CPU: 2 wanted, 1 free of 1; pretrain: 2 wanted, 1 free of 1"


def test_a_node_has_room_for_as_many_workers_as_its_scarcest_resource() -> None:
    each = {"CPU": 4.0, "GPU": 1.0, "pretrain": 1.0}
    assert places(each, [{"CPU": 64.0, "GPU": 8.0, "pretrain": 4.0}]) == 4
    assert places(each, [{"CPU": 7.0, "GPU": 8.0, "pretrain": 4.0}]) == 1
    assert places(each, [{"CPU": 64.0, "GPU": 8.0}]) == 0
