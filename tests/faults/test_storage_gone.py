"""Storage that is not writable or disappears: the run ends with one line that names the path."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import forked
import pytest
from small_runs import events, run_workers, small_settings

from cluster import pretrain
from cluster.training import worker
from cluster.training.work import Work


def pretrain_until_checkpoints_are_gone(config: dict[str, Any]) -> None:
    """Worker function; before its second step a file replaces its folder of checkpoints."""
    step, made = worker.optimizer_step, 0
    checkpoints = Path(config["settings"]["run"]["dir"]) / "checkpoints"

    def step_without_storage(*arguments: Any) -> Any:
        nonlocal made
        made += 1
        if made == 2:
            shutil.rmtree(checkpoints)
            checkpoints.write_text("no folder")
        return step(*arguments)

    worker.optimizer_step = step_without_storage
    pretrain.pretrain_worker(config)


def test_checkpoints_that_went_away_are_named_and_end_the_run(shards: Path, tmp_path: Path) -> None:
    settings = small_settings(
        shards, tmp_path, cluster={"workers": 1}, checkpoint={"every": 2, "max_failed": 2}
    )
    with pytest.raises(Exception, match="2 checkpoints in a row could not be written, the last at step 4"):
        run_workers(settings, work=pretrain_until_checkpoints_are_gone)
    failed = events(settings.run.dir, "checkpoint_failed")
    assert [event["step"] for event in failed] == [2, 4]
    assert all(str(settings.run.dir / "checkpoints") in event["reason"] for event in failed)


def pretrain_without_shards(config: dict[str, Any]) -> None:
    """Worker function whose shards disappear after they have been checked."""
    train = worker.train

    def train_without_storage(work: Work) -> Any:
        shutil.rmtree(config["settings"]["data"]["shards"])
        return train(work)

    worker.train = train_without_storage
    pretrain.pretrain_worker(config)


def test_shards_that_went_away_are_named_and_end_the_run(shards: Path, tmp_path: Path) -> None:
    own = tmp_path / "shards"
    shutil.copytree(shards, own)
    settings = small_settings(own, tmp_path, cluster={"workers": 1})
    with pytest.raises(Exception, match=rf"{own}/train-\d+\.tar has gone since the start"):
        run_workers(settings, work=pretrain_without_shards)
    assert not events(settings.run.dir, "step")


def test_a_run_dir_that_cannot_be_made_is_refused_before_anything_starts(
    shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(small_settings(shards, tmp_path).model_dump_json())
    (tmp_path / "file").touch()
    run = tmp_path / "file" / "run"
    done = forked.run("pretrain", "config.json", f"--set=run.dir={run}", cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "file") in done.stderr
