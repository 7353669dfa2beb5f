"""Killed while committing: the previous commit is used, and the incomplete one removed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import pytest
import torch
from small_runs import events, run_workers, small_settings

import odeformer
from cluster import pretrain
from cluster.checkpoints import durable, folder

NEXT = "step-000000004"
BEFORE, AFTER = ("within a file", "before commit.json", "before the rename"), "before old ones go"


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def pretrain_and_die(config: dict[str, Any]) -> None:
    """Worker function that kills itself in the commit of step 4, at a point named by the environment."""
    point, save, write, sync = os.environ["DIE"], torch.save, durable.write, folder.flush

    def saving(state: Any, file: Any) -> None:
        save(state, file)
        if point == "within a file" and NEXT in file.name:
            file.truncate(file.tell() // 2)
            die()

    def writing(path: Path, content: Callable[[BinaryIO], object]) -> str:
        if point == "before commit.json" and NEXT in str(path) and path.name == "commit.json":
            die()
        return write(path, content)

    def syncing(path: Path) -> None:
        if point == "before the rename" and NEXT in path.name:
            die()
        sync(path)
        if point == AFTER and (path / NEXT).exists():
            die()

    torch.save, durable.write, folder.flush = saving, writing, syncing  # type: ignore[assignment]
    pretrain.pretrain_worker(config)


def check(
    shards: Path, tmp_path: Path, points: tuple[str, ...], workers: int, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Kill a run at each point, resume it each time, and let it end."""
    run = small_settings(
        shards,
        tmp_path,
        train={"validate_every": 100},
        checkpoint={"every": 2, "keep": 1},
        cluster={"workers": workers},
    )
    commits = run.run.dir / "checkpoints"
    for point in points:
        monkeypatch.setenv("DIE", point)
        with pytest.raises(Exception, match="SIGKILL"):
            run_workers(run, work=pretrain_and_die)
        assert (commits / "step-000000002").is_dir(), point
        assert (commits / NEXT).exists() == (point == AFTER), point
        assert (commits / f".{NEXT}.incomplete").exists() == (point != AFTER), point
    run_workers(run)
    resumed = [event["step"] for event in events(run.run.dir, "resumed")]
    assert resumed == [4 if point == AFTER else 2 for point in points]
    assert [path.name for path in commits.iterdir()] == ["step-000000006"]
    return run.run.dir


def test_a_commit_is_none_until_it_is_renamed(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(shards, tmp_path, ("before the rename",), 1, monkeypatch)


@pytest.mark.slow
def test_a_kill_at_any_point_of_a_commit_changes_nothing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = check(shards, tmp_path / "whole", (), 2, monkeypatch)
    killed = check(shards, tmp_path / "killed", (*BEFORE, AFTER), 2, monkeypatch)
    first, second = (odeformer.load(run / "final").state_dict() for run in (whole, killed))
    assert all(torch.equal(first[name], second[name]) for name in first)
