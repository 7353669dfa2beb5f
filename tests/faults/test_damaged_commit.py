"""Damaged commits (a cut file, a wrong byte, a missing file) are reported and skipped by all workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import events, run_workers, small_settings

import odeformer


def test_whatever_is_wrong_the_newest_good_commit_is_taken(shards: Path, tmp_path: Path) -> None:
    run = small_settings(shards, tmp_path, checkpoint={"every": 1, "keep": 6}, train={"validate_every": 9})
    run_workers(run)
    before = odeformer.load(run.run.dir / "final").state_dict()
    commits = run.run.dir / "checkpoints"
    model = "state/mp_rank_00_model_states.pt"
    (of_rank_1,) = (commits / "step-000000004" / "state").glob("*rank_1_*")

    cut = commits / "step-000000006" / model
    cut.write_bytes(cut.read_bytes()[:-100])
    flipped = commits / "step-000000005" / model
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    of_rank_1.unlink()
    (commits / "step-000000003" / "commit.json").unlink()

    run_workers(run)
    damaged = events(run.run.dir, "checkpoint_damaged")
    assert [event["step"] for event in damaged] == [6, 5, 4, 3]
    signs = (
        f"{model} is not what was written",
        f"{model} is not what was written",
        f"{of_rank_1.name} cannot be read: No such file",
        "commit.json cannot be read: FileNotFoundError",
    )
    for event, sign in zip(damaged, signs, strict=True):
        assert f"step-{event['step']:09d}" in event["reason"]
        assert sign in event["reason"]
    assert [event["step"] for event in events(run.run.dir, "resumed")] == [2]
    # Both workers went back to the same step, and on as before; what was damaged is there to be looked at.
    after = odeformer.load(run.run.dir / "final").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(list(commits.glob(".step-*.damaged"))) == 4
    assert len(list(commits.glob("step-*"))) == 6


def test_a_run_whose_commits_are_all_damaged_stops_unless_it_is_to_start_anew(
    shards: Path, tmp_path: Path
) -> None:
    run = small_settings(
        shards, tmp_path, train={"steps": 2}, checkpoint={"every": 1}, cluster={"workers": 1}
    )
    run_workers(run)
    for commit in (run.run.dir / "checkpoints").glob("step-*"):
        (commit / "commit.json").unlink()
    with pytest.raises(Exception, match="is undamaged: put one back, or train from step 0"):
        run_workers(run)
    assert not list((run.run.dir / "checkpoints").glob("step-*")), "nothing was trained"
    anew = run.model_copy(update={"checkpoint": run.checkpoint.model_copy(update={"start_anew": True})})
    run_workers(anew)
    assert [event["step"] for event in events(run.run.dir, "started")] == [0, 0]
