"""Commits survive killed runs, and anything that is not a commit is ignored."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import events, held_worker, let, run_workers
from waiting import wait_for

import odeformer
from cluster.checkpoints import folder
from cluster.resolve import resolve_run
from cluster.settings import PretrainSettings
from odeformer.files.digest import file_digest

MakeSettings = Callable[..., PretrainSettings]


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return odeformer.load(folder / "final").state_dict()


def test_a_killed_run_ends_bit_for_bit_like_an_uninterrupted_one(
    settings: MakeSettings, tmp_path: Path
) -> None:
    train = {"steps": 20, "validate_every": 20}
    whole = settings(train=train, checkpoint={"every": 5}, run={"dir": tmp_path / "whole"})
    run_workers(whole)

    killed = settings(train=train, checkpoint={"every": 5}, run={"dir": tmp_path / "killed"})
    let(killed.run.dir, 12)
    group = run_workers(killed, join=False, work=held_worker)
    wait_for(lambda: [event["step"] for event in events(killed.run.dir, "step")][-1:] == [12])
    os.kill(group.pids()[1], signal.SIGKILL)
    with pytest.raises(Exception, match=r"SIGKILL|[Cc]onnection"):  # of whichever worker is told of first
        group.join()
    assert not (killed.run.dir / "final").exists()

    run_workers(killed)
    [resumed] = events(killed.run.dir, "resumed")
    assert resumed["step"] % 5 == 0
    assert resumed["step"] >= 5, "that of step 10 may have been in flight"
    first, second = final_weights(whole.run.dir), final_weights(killed.run.dir)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_old_commits_go_only_when_newer_ones_stand(settings: MakeSettings) -> None:
    run = settings(checkpoint={"every": 1, "keep": 2, "keep_every": 3}, cluster={"workers": 1})
    commits, names = run.run.dir / "checkpoints", ["step-000000003", "step-000000005", "step-000000006"]
    (commits / "step-000000009.bak").mkdir(parents=True)
    run_workers(run)
    assert sorted(path.name for path in commits.iterdir()) == [*names, "step-000000009.bak"]
    assert [path.name for path in folder.commits(commits)] == names, "somebody's copy is no commit"
    with pytest.raises(ValueError, match="keep_every 3 is not a multiple of"):
        settings(checkpoint={"every": 2, "keep_every": 3})


def test_a_finished_run_run_again_changes_nothing(settings: MakeSettings) -> None:
    run = settings()
    run_workers(run)
    before = final_weights(run.run.dir)
    run_workers(run)
    assert [event["step"] for event in events(run.run.dir, "resumed")] == [6]
    after = final_weights(run.run.dir)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_run_may_not_resume_from_this_folder(settings: MakeSettings) -> None:
    run = resolve_run(settings())
    assert not run.settings.run.dir.exists(), "checking makes no folder"
    run.write_identity()
    settings()
    settings(zero={"stage": 2}, cluster={"workers": 1})
    for change in ({"model": {"width": 16}}, {"train": {"global_batch": 4}}, {"run": {"seed": 1}}):
        with pytest.raises(
            ValueError, match=r"holds another run, which differs in (model|global_batch|seeds)"
        ):
            settings(**change)


def test_a_commit_without_its_manifest_is_no_commit(tmp_path: Path) -> None:
    (tmp_path / "step-000000004").mkdir()
    good = tmp_path / "step-000000002"
    good.mkdir()
    (good / "state").write_text("x")
    digest = {"state": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
    content = {"format_version": 2, "step": 2, "files": digest}
    (good / "commit.json").write_text(json.dumps(content))
    found = folder.newest_good(tmp_path)
    assert found.commit == good
    assert [step for step, _ in found.damaged] == [4]


def commit_with(folder_of_commits: Path, step: int) -> Path:
    """A commit of one file that verifies."""
    commit = folder_of_commits / folder.name(step)
    commit.mkdir()
    (commit / "state").write_text("x")
    content = {"format_version": 3, "step": step, "files": {"state": file_digest(commit / "state")}}
    (commit / "commit.json").write_text(json.dumps(content))
    return commit


def test_an_error_that_passes_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest, errors = commit_with(tmp_path, 4), [errno.ESTALE, errno.EIO, errno.EACCES]

    def digest(path: Path) -> str:
        if errors:
            raise OSError(errors.pop(), "not just now", str(path))
        return file_digest(path)

    monkeypatch.setattr(folder, "file_digest", digest)
    monkeypatch.setattr(folder, "FIRST_PAUSE", 0.0)
    found = folder.newest_good(tmp_path)
    assert (found.commit, found.damaged, errors) == (newest, [], [])


def test_an_error_that_stays_moves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [commit_with(tmp_path, step) for step in (2, 4)]

    def digest(path: Path) -> str:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(folder, "file_digest", digest)
    monkeypatch.setattr(folder, "FIRST_PAUSE", 0.0)
    with pytest.raises(OSError, match=r"Stale file handle: .*step-000000004/state"):
        folder.newest_good(tmp_path)
    assert sorted(tmp_path.iterdir()) == made


def test_what_was_damaged_before_stays(tmp_path: Path) -> None:
    for content in ("first", "second", "third"):
        (commit_with(tmp_path, 4) / "state").write_text(content)
        assert folder.newest_good(tmp_path).commit is None
    kept = {path.name: (path / "state").read_text() for path in tmp_path.iterdir()}
    assert kept == {
        ".step-000000004.damaged": "first",
        ".step-000000004.2.damaged": "second",
        ".step-000000004.3.damaged": "third",
    }


def test_a_commit_of_a_later_version_is_refused_and_stays(tmp_path: Path) -> None:
    for step, version in ((2, 3), (4, 99)):
        commit = tmp_path / f"step-00000000{step}"
        commit.mkdir()
        (commit / "commit.json").write_text(json.dumps({"format_version": version, "step": 2, "files": {}}))
    with pytest.raises(folder.FormatError, match="step-000000004 has format 99, and this version reads 2, 3"):
        folder.newest_good(tmp_path)
    assert (tmp_path / "step-000000004").is_dir()
