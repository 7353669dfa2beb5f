"""Mirror of commits in a real S3 server: after the loss of its folder the run continues unchanged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from moto.server import ThreadedMotoServer
from small_runs import events, run_workers, tiny_shape
from torch import distributed as dist
from waiting import wait_for

import odeformer
from cluster import pretrain
from cluster.checkpoints import durable, folder
from cluster.checkpoints.commit import Checkpoints
from cluster.checkpoints.mirror import Mirror, OwnerError, newest_commit
from cluster.resolve import resolve_run
from cluster.runs import heartbeat
from cluster.settings import (
    CheckpointSettings,
    OptimSettings,
    PretrainSettings,
    TrainSettings,
    ZeroSettings,
)
from cluster.tracking import runs
from cluster.training import zero
from odeformer.model import Odeformer

ADDRESS = "s3://checkpoints/runs/first"


class Store:
    """An S3 server that keeps its content when it is restarted."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.host, self.port = self._server.get_host_and_port()

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def files(self) -> list[str]:
        import fsspec

        system = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
        prefix = ADDRESS.removeprefix("s3://") + "/"
        return sorted(path.removeprefix(prefix) for path in system.find(ADDRESS))

    def remove(self, name: str) -> None:
        import fsspec

        fsspec.filesystem("s3", skip_instance_cache=True).rm_file(f"{ADDRESS}/{name}")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    import fsspec

    server = Store()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{server.host}:{server.port}"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.makedirs("checkpoints", exist_ok=True)
    yield server
    for path in server.files():
        server.remove(path)
    server.stop()


def make_commit(place: Path, step: int, **content: Any) -> Path:
    """A commit of one file."""
    commit = place / folder.name(step)
    digest = durable.write(commit / "state/x", lambda file: file.write(b"state of %d" % step))
    manifest = {"format_version": 3, "step": step, "files": {"state/x": digest}, **content}
    (commit / "commit.json").write_text(json.dumps(manifest))
    return commit


def test_only_whole_and_good_commits_are_fetched(s3: Store, tmp_path: Path) -> None:
    here, there, settings = tmp_path / "run/checkpoints", tmp_path / "new", CheckpointSettings(keep=2)
    mirror = Mirror(ADDRESS, tmp_path / "run", settings)
    assert mirror.fetch(there).commit is None
    for step in (1, 2, 3):
        mirror.send(make_commit(here, step, mlflow_run=f"run {step}"))
    shutil.rmtree(here / folder.name(1))  # as a commit of ours would have
    names = [f"step-{step:09d}/{name}" for step in (2, 3) for name in ("commit.json", "state/x")]
    assert s3.files() == names, "the superseded one went"
    elsewhere = CheckpointSettings(mirror=ADDRESS)
    assert newest_commit(tmp_path / "other", elsewhere)["mlflow_run"] == "run 3"
    # Half of the newest, for all that can be known.
    s3.remove(names[2])
    found = mirror.fetch(there)
    assert (found.commit, found.content["step"], found.damaged) == (there / folder.name(2), 2, [])
    assert (there / folder.name(2) / "state/x").read_bytes() == b"state of 2"
    mirror.send(here / folder.name(3))
    assert s3.files() == names, "made whole"
    # One that was made again after a rollback replaces the old one; a damaged one is passed over.
    mirror.send(make_commit(here, 3, mlflow_run="again"))
    assert newest_commit(tmp_path / "other", elsewhere)["mlflow_run"] == "again"
    s3.remove(names[3])
    shutil.rmtree(there)
    found = mirror.fetch(there)
    assert found.content["step"] == 2
    assert found.damaged == [
        (3, f"{ADDRESS}/step-000000003: state/x cannot be read: No such file or directory")
    ]
    assert [path.name for path in there.iterdir()] == [folder.name(2)]


def test_what_must_not_be_fetched(s3: Store, tmp_path: Path) -> None:
    here, there, run = tmp_path / "run/checkpoints", tmp_path / "other/checkpoints", tmp_path / "other"
    settings = CheckpointSettings()
    Mirror(ADDRESS, tmp_path / "run", settings).send(make_commit(here, 1, run={"seeds": [0, 0]}))
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"seeds": [1, 0]}))
    with pytest.raises(OwnerError, match="belongs to another run, which differs in seeds"):
        Mirror(ADDRESS, run, settings).fetch(there)
    commit = make_commit(here, 2, files={"../../../outside": ""})
    Mirror(ADDRESS, tmp_path / "run", settings).send(commit)
    found = Mirror(ADDRESS, tmp_path, settings).fetch(there)
    assert found.content["step"] == 1
    assert "'../../../outside' is not a valid file name in a commit" in found.damaged[0][1]


def test_a_new_folder_goes_on_in_the_mlflow_run_that_a_commit_names(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    old = runs.start_run(uri, "test", "old", {}, tmp_path / "old")
    make_commit(tmp_path / "new/checkpoints", 1, mlflow_run=old)
    known = newest_commit(tmp_path / "new", CheckpointSettings())["mlflow_run"]
    assert runs.start_run(uri, "test", "new", {}, tmp_path / "new", known=known) == old
    other = runs.start_run(uri, "test", "other", {}, tmp_path / "other", known="0" * 32)
    assert other not in (old, "0" * 32)


@pytest.mark.parametrize("has_commit", [False, True])
def test_another_run_changes_nothing_in_a_mirror(tmp_path: Path, has_commit: bool) -> None:
    store, settings = tmp_path / "store", CheckpointSettings(keep=1)
    runs = [tmp_path / "first", tmp_path / "second"]
    for seed, run in enumerate(runs):
        run.mkdir()
        (run / "run.json").write_text(json.dumps({"seeds": [seed, 0]}))
    first, second = (Mirror(f"file://{store}", run, settings) for run in runs)
    first.claim()
    if has_commit:
        first.send(make_commit(runs[0] / "checkpoints", 1))
    before = sorted(store.rglob("*"))
    for use in (
        second.claim,
        lambda: second.send(make_commit(runs[1] / "checkpoints", 7)),
        lambda: second.fetch(runs[1] / "checkpoints"),
    ):
        with pytest.raises(OwnerError, match="belongs to another run, which differs in seeds"):
            use()
    assert sorted(store.rglob("*")) == before
    first.send(make_commit(runs[0] / "checkpoints", 2))
    assert [path.name for path in folder.commits(store)] == [folder.name(2)]


def test_the_mirror_of_another_run_is_refused_before_anything_starts(
    settings: Callable[..., PretrainSettings], tmp_path: Path
) -> None:
    mirror = {"mirror": f"file://{tmp_path}/store"}
    first = resolve_run(settings(checkpoint=mirror))
    first.write_identity()
    Mirror(mirror["mirror"], first.settings.run.dir, first.settings.checkpoint).claim()
    shutil.rmtree(first.settings.run.dir)
    settings(checkpoint=mirror)
    with pytest.raises(ValueError, match=r"checkpoint.mirror .* another run, which differs in seeds"):
        settings(checkpoint=mirror, run={"seed": 1})


def pretrain_with_a_slow_mirror(config: dict[str, Any]) -> None:
    """Worker function; a copy takes until all steps are made and the run has waited for it for a while."""
    run, copy = Path(config["settings"]["run"]["dir"]), Mirror._copy

    def copying(self: Mirror, commit: Path) -> None:
        wait_for(lambda: len(events(run, "step")) == 6)
        passed = heartbeat._passed
        wait_for(lambda: heartbeat._passed >= passed + 3)
        copy(self, commit)

    Mirror._copy = copying  # type: ignore[method-assign]
    pretrain.pretrain_worker(config)


def test_training_does_not_wait_for_a_slow_mirror(
    settings: Callable[..., PretrainSettings], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    run = settings(checkpoint={"every": 1, "keep": 1, "mirror": f"file://{store}"})
    run_workers(run, work=pretrain_with_a_slow_mirror)
    assert [event["step"] for event in events(run.run.dir, "checkpoint")] == [1, 2, 3, 4, 5, 6]
    assert [event["step"] for event in events(run.run.dir, "checkpoint_mirrored")] == [1, 6]
    assert events(run.run.dir, "mirror_away") == [], "the first was there until it was copied"
    assert [path.name for path in folder.commits(store)] == [folder.name(6)]


def commit_and_lose(config: dict[str, Any]) -> None:
    place = Path(config["settings"]["run"]["dir"]) / "checkpoints"
    train = TrainSettings(steps=9, global_batch=2, micro_batch=1)
    engine = zero.initialize(
        Odeformer(tiny_shape(50, 8)), train, OptimSettings(), ZeroSettings(stage=1), place.parent
    )
    said: list[str] = []

    class Data:
        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            said.append("loaded")

    settings = CheckpointSettings(mirror=ADDRESS)

    def commits() -> Checkpoints:
        return Checkpoints(engine, Data(), place, settings, lambda event, *_: said.append(event), 0)

    with commits() as first:
        assert first.restore() == 0
        first.save(4)
    parameter = next(engine.module.parameters())
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter += 1
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(place)
    dist.barrier()
    with commits() as second:
        assert second.restore() == 4
    assert torch.equal(parameter, before)
    if dist.get_rank() == 0:
        assert said == ["checkpoint", "checkpoint_mirrored", "checkpoint_fetched", "loaded"]


def test_all_workers_go_on_from_the_mirror(s3: Store, settings: Callable[..., PretrainSettings]) -> None:
    run_workers(settings(), work=commit_and_lose)


@pytest.mark.slow
def test_a_run_goes_on_on_a_new_machine_and_while_the_store_is_away(
    s3: Store, settings: Callable[..., PretrainSettings], tmp_path: Path
) -> None:
    def run(steps: int) -> PretrainSettings:
        return settings(
            train={"steps": steps, "validate_every": 99},
            checkpoint={"every": 2, "keep": 2, "mirror": ADDRESS},
            optim={"schedule": "wsd", "warmup": 0.0, "decay": 0.01},  # the same for any number of steps
        )

    first = run(4)
    run_workers(first)
    whole = odeformer.load(first.run.dir / "final").state_dict()
    shutil.rmtree(first.run.dir)
    s3.remove("step-000000004/commit.json")
    run_workers(first)
    assert [event["step"] for event in events(first.run.dir, "checkpoint_fetched")] == [2]
    assert [event["step"] for event in events(first.run.dir, "resumed")] == [2]
    again = odeformer.load(first.run.dir / "final").state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert "step-000000004/commit.json" in s3.files()

    s3.stop()
    run_workers(run(6))
    [away] = events(first.run.dir, "mirror_away")
    assert away["step"] == 6
    assert away["reason"].startswith(f"{ADDRESS}: ")
    assert len(events(first.run.dir, "finished")) == 2
    s3.start()
    assert "step-000000006/commit.json" not in s3.files()
    run_workers(run(8))
    manifests = [path for path in s3.files() if path.endswith("commit.json")]
    assert manifests == ["step-000000004/commit.json", "step-000000008/commit.json"], "the newest"

    s3.stop()
    shutil.rmtree(first.run.dir)
    with pytest.raises(
        Exception, match=f"{ADDRESS} cannot be read, and .* holds no checkpoint to resume from"
    ):
        run_workers(run(8))
    s3.start()
