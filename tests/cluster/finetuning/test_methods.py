"""Methods, depths and gates of tasks, each by a job in a process of its own."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import spawn
from pydantic import ValidationError
from small_tasks import register_base, small_task

import odeformer
from cluster import registry
from cluster.finetuning import job, preparing
from cluster.promotion.task_gate import judge, settle
from cluster.registry import aliases
from cluster.tags import DATA_DIGEST
from odeformer.norms import vectors


def run_jobs(index: int, folder: Path, uri: str) -> None:
    torch.set_num_threads(1)
    gate = {"threshold": 0.1, "against": "base", "metric": "loss"}
    tasks = [
        small_task(folder, "low-rank", depth=6, gate=gate),
        small_task(folder, "full", method="full", metric="loss", train={"learning_rate": 0.005}),
        small_task(folder, "norms", method="norms", train={"depths": [2, 4]}, gate={"threshold": 2.0}),
        small_task(folder, "budget", steps=2, latency_ms=10_000.0),
        small_task(folder, "reversible", steps=2, train={"gradient": "reversible"}),
    ]
    results = [asdict(job.finetune(task, folder / "jobs" / task.name, uri)) for task in tasks]
    against = small_task(folder, "low-rank", steps=2, gate={"threshold": 0.0, "against": "champion"})
    challenger = asdict(job.finetune(against, folder / "jobs" / "challenger", uri))
    (folder / "challenger.json").write_text(json.dumps(challenger))
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("methods")
    uri = register_base(folder)
    spawn(run_jobs, args=(folder, uri), nprocs=1)
    results = {result["task"]: result for result in json.loads((folder / "results.json").read_text())}
    return folder, uri, results


def events(folder: Path, name: str, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "jobs" / name / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_every_method_learns_the_task(done: Any) -> None:
    folder, _, results = done
    for name in ("low-rank", "full", "norms"):
        first, last = (events(folder, name, "validation")[at]["validation_loss"] for at in (0, -1))
        assert last < first - 0.1, name
    assert results["full"]["metric"] == "loss"
    assert results["full"]["after"] == pytest.approx(
        events(folder, "full", "validation")[-1]["validation_loss"]
    )
    assert results["norms"]["metric"] == "accuracy"


def test_a_job_runs_at_the_depth_it_is_for(done: Any) -> None:
    folder, _, results = done
    assert {event["depth"] for event in events(folder, "low-rank", "step")} == {6}
    assert {event["depth"] for event in events(folder, "norms", "step")} == {2, 4}
    assert (results["low-rank"]["depth"], results["norms"]["depth"]) == (6, 4)
    assert results["budget"]["depth"] == 8, "2D, the most that is measured, takes less than ten seconds"
    assert {event["depth"] for event in events(folder, "budget", "step")} == {8}


def test_what_each_method_made_is_what_the_registry_loads(done: Any) -> None:
    _, uri, results = done
    base = registry.load("models:/base/1", uri).model.state_dict()
    made = {name: registry.load(f"models:/base--small--{name}/1", uri) for name in results}
    tuned = {name: loaded.model.state_dict() for name, loaded in made.items()}
    for name, version in (("low-rank", "adapter"), ("norms", "adapter"), ("full", "checkpoint")):
        tags = made[name].versions[0].tags
        assert (tags["odeformer.kind"], tags["odeformer.method"]) == (
            version,
            {"low-rank": "lora"}.get(name, name),
        )
    assert made["full"].versions[0].tags["odeformer.parent"] == "models:/base/1"
    changed = {n: {k for k in base if not torch.equal(base[k], tuned[n][k])} for n in tuned}
    assert changed["low-rank"] == changed["reversible"] == set()
    assert changed["norms"] == set(vectors(made["norms"].model))
    assert changed["full"] == set(base)
    assert made["low-rank"].model.hypernetwork.adapter is not None
    assert json.loads(made["low-rank"].versions[0].tags["odeformer.score"]) == results["low-rank"]["after"]


def test_a_version_says_which_examples_it_has_seen(done: Any, tmp_path: Path) -> None:
    _, uri, _ = done
    sets = preparing.read_sets(small_task(tmp_path, "low-rank"))
    assert registry.resolve("models:/base--small--low-rank/1", uri).tags[DATA_DIGEST] == sets.digest()
    fewer = replace(sets, train=sets.train[:-1], validation=[sets.train[-1], *sets.validation])
    assert fewer.digest() != sets.digest(), "the same examples, one of them on the other side"


def test_tuned_norms_are_refused_by_another_base(done: Any, tmp_path: Path) -> None:
    folder, _, _ = done
    register_base(tmp_path, name="other", seed=1)
    with pytest.raises(ValueError, match="was made for the base"):
        odeformer.load(tmp_path / "other", folder / "jobs" / "norms" / "adapter")


def test_a_gate_is_recorded_with_what_came_of_it(done: Any) -> None:
    folder, uri, results = done
    gate = results["low-rank"]["gate"]
    first, last = (events(folder, "low-rank", "validation")[at]["validation_loss"] for at in (0, -1))
    assert gate == {
        "metric": "loss",
        "threshold": 0.1,
        "against": "base",
        "value": last,
        "reached": first - last >= 0.1,
    }
    tags = registry.resolve("models:/base--small--low-rank/1", uri).tags
    assert json.loads(tags["odeformer.gate"]) == gate


def test_a_gate_says_who_becomes_champion(done: Any) -> None:
    folder, uri, results = done
    names = {version.version: version.aliases for version in registry.versions(uri, "base--small--low-rank")}
    assert names == {"1": ("champion",), "2": ("candidate",)}
    [move] = aliases.read_log("base--small--low-rank", uri).moves
    assert (move.after, move.why) == (
        "1",
        f"its task's gate: loss {results['low-rank']['gate']['value']:.4g}",
    )
    challenger = json.loads((folder / "challenger.json").read_text())
    assert challenger["gate"]["reached"] is False
    [event] = events(folder, "challenger", "not_promoted")
    assert "at least 20 are needed" in event["reason"], "16 examples say little"
    assert results["norms"]["gate"]["reached"] is False
    [missed] = registry.versions(uri, "base--small--norms")
    assert missed.aliases == ("candidate",), "not even where there is none"
    [free] = registry.versions(uri, "base--small--full")
    assert set(free.aliases) == {"candidate", "champion"}, "no gate: the first is champion"


def test_a_version_that_was_champion_once_is_not_made_it_again(done: Any) -> None:
    folder, uri, results = done
    first, second = sorted(
        registry.versions(uri, "base--small--low-rank"), key=lambda version: int(version.version)
    )
    aliases.move(second, uri, why="by hand")
    settle(first, uri, results["low-rank"]["gate"], 6, folder / "jobs" / "low-rank")
    assert registry.resolve("models:/base--small--low-rank@champion", uri).version == "2"


@pytest.mark.parametrize(
    ("gate", "reached"),
    [
        ({"threshold": 0.8}, True),
        ({"threshold": 0.95}, False),
        ({"threshold": 1.0, "metric": "loss"}, True),
        ({"threshold": 0.8, "metric": "loss"}, False),
        ({"threshold": 0.3, "against": "base"}, True),
        ({"threshold": 0.5, "against": "base"}, False),
        ({"threshold": -0.2, "against": "base", "metric": "loss"}, True),
        ({"threshold": 0.0, "against": "champion"}, None),
    ],
)
def test_gates(tmp_path: Path, gate: dict[str, Any], reached: bool | None) -> None:
    task = small_task(tmp_path, "gated", gate=gate)
    found = judge(task, {"accuracy": 0.5, "loss": 0.8}, {"accuracy": 0.9, "loss": 0.9})
    assert found is not None
    assert found.get("reached") == reached


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 4, "latency_ms": 5.0}, "either depth or latency_ms, not both"),
        ({"method": "prefix"}, "'lora', 'full' or 'norms'"),
        ({"kind": "completion", "metric": "accuracy"}, "metric 'accuracy' is for kind 'classification'"),
        (
            {"kind": "completion", "gate": {"metric": "accuracy", "threshold": 1}},
            "gate.metric 'accuracy' is for kind 'classification'",
        ),
        ({"gate": {"threshold": float("nan")}}, "gate.threshold"),
        (
            {"metric": "loss", "gate": {"against": "champion", "threshold": 0}},
            "against 'champion', kind 'classification' needs metric 'accuracy'",
        ),
        ({"latency_ms": 0.0}, "latency_ms"),
    ],
)
def test_fields_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small_task(tmp_path, "wrong", **changes)
