"""MLflow's record of a real run: each step once, system metrics and lineage."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from statistics import median

import mlflow
import pytest
from empty_store import empty_store
from small_runs import events, run_workers

from cluster.settings import PretrainSettings
from cluster.tracking import lineage, runs, store
from cluster.tracking.node import Meter

PARTS = ("data", "forward", "backward", "communication", "optimizer")


def test_each_step_has_its_numbers_once_also_after_a_restart(
    settings: Callable[..., PretrainSettings], tmp_path: Path
) -> None:
    run_workers(settings(zero={"stage": 0}, train={"steps": 3}))
    made = settings(zero={"stage": 0}, train={"steps": 5}, cluster={"workers": 1})
    run_workers(made)
    assert made.tracking.uri is not None
    client, run_id = store.connect(made.tracking.uri), runs.open_run(made.run.dir)

    def history(key: str) -> dict[int, float]:
        values = client.get_metric_history(run_id, key)
        assert len(values) == len({value.step for value in values}), key
        return {value.step: value.value for value in values}

    # 8 sequences of 32 tokens a step; the count goes on from the commit.
    assert history("tokens") == {step: 256.0 * step for step in range(1, 6)}
    whole, parts = history("step_seconds"), [history(f"{part}_seconds") for part in PARTS]
    assert set(whole) == set(range(1, 6))
    for step, seconds in whole.items():
        assert sum(part[step] for part in parts) <= seconds
        assert all(part[step] > 0 for part in parts)
    assert median(sum(part[step] for part in parts) / whole[step] for step in whole) > 0.5
    rates, flops = history("tokens_per_second"), history("model_flops_per_second")
    for step, seconds in whole.items():
        assert rates[step] == pytest.approx(256 / seconds)
        assert flops[step] > 0
    assert "mfu" not in client.get_run(run_id).data.metrics, "a CPU has no peak that could be known"

    node = f"system/{re.sub(r'[^A-Za-z0-9._-]', '_', socket.gethostname())}"
    memory, step_axis = history(f"{node}/worker_memory"), [e["step"] for e in _node_events(made)]
    # One at the end of each start, as both workers are on one node; more where a start takes its time.
    assert len(step_axis) >= 2
    assert step_axis == sorted(set(step_axis))
    assert list(memory) == step_axis
    assert all(value > 50e6 for value in memory.values())

    artifact = mlflow.artifacts.download_artifacts(
        run_id=run_id, artifact_path="deepspeed.json", dst_path=str(tmp_path), tracking_uri=made.tracking.uri
    )
    assert Path(artifact).read_text() == (made.run.dir / "deepspeed.json").read_text()
    assert [event["tokens"] for event in events(made.run.dir, "step")] == [256 * step for step in range(1, 6)]


def _node_events(made: PretrainSettings) -> list[dict[str, float]]:
    (log,) = (made.run.dir / "nodes").iterdir()
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_changed_deepspeed_dictionary_is_sent_again(tmp_path: Path) -> None:
    from cluster.tracking import runs, upload

    uri, folder = empty_store(tmp_path), tmp_path / "run"
    run_id = runs.start_run(uri, "experiment", "name", {}, folder)
    for content in ('{"stage": 1}', '{"stage": 2}'):
        (folder / "deepspeed.json").write_text(content)
        upload.sync(folder)
        path = mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path="deepspeed.json", dst_path=str(tmp_path), tracking_uri=uri
        )
        assert Path(path).read_text() == content


def test_a_run_has_the_tags_of_its_last_start(tmp_path: Path) -> None:
    uri, folder = empty_store(tmp_path), tmp_path / "run"
    tags = {"odeformer.version": "1", "odeformer.data_digest": "abc"}
    run_id = runs.start_run(uri, "experiment", "name", {}, folder, tags)
    client = store.connect(uri)
    assert tags.items() <= client.get_run(run_id).data.tags.items()
    runs.start_run(uri, "experiment", "name", {}, folder, tags | {"odeformer.version": "2"})
    assert client.get_run(run_id).data.tags["odeformer.version"] == "2"


def test_the_code_names_its_commit_only_from_a_checkout(tmp_path: Path) -> None:
    assert {"odeformer.version", "odeformer.torch", "odeformer.ray"} <= set(lineage.code_tags())
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-C", str(tmp_path)]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "m"], ["tag", "a-tag"]):
        subprocess.run([*git, *command], check=True)
    commit = lineage.git_commit(tmp_path)
    assert commit is not None
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "file").write_text("2")
    assert lineage.git_commit(tmp_path) == f"{commit}-dirty"
    (tmp_path / "installed").mkdir()
    assert lineage.git_commit(tmp_path / "installed") is None, "somebody else's repository"


def test_rates_of_a_node_are_since_the_last_reading(tmp_path: Path) -> None:
    meter = Meter(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with socket.create_connection(listening.getsockname()) as sending, listening.accept()[0] as receiving:
            sending.sendall(bytes(2**16))
            while receiving.recv(2**16):
                break
        first, second = meter.read(), meter.read()
    assert first["network_sent_per_second"] > 0
    assert 0 <= first["cpu_percent"] <= 100
    assert first["memory_used"] > 0
    assert second["disk_free"] > 0
