"""Jobs that share passes over their base do what they would do alone."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import spawn
from safetensors.torch import load_file
from small_runs import tiny_shape
from small_tasks import register_base, small_task

from cluster import registry
from cluster.finetuning import job
from cluster.finetuning.together import JointPassError, Together
from cluster.runs import preemption
from cluster.runs.failures import PreemptedError
from cluster.tasks.task import Task
from odeformer.config import AdapterConfig
from odeformer.frozen import FrozenBase
from odeformer.lora import Adapter
from odeformer.model import Odeformer, token_losses

NAMES = ("one", "other", "asked-to-end")


def tasks(folder: Path) -> list[Task]:
    """Of one shape; rank, rate, order, clipping's effect and number of steps are each task's own."""
    same: dict[str, Any] = {"sequence_length": 8}
    return [
        small_task(folder, "one", train={**same, "micro_batch": 4}),
        small_task(
            folder,
            "other",
            steps=7,
            adapter={"rank": 2, "targets": ["qkv", "down", "embedding"], "size": 1},
            train={**same, "global_batch": 4, "learning_rate": 0.01, "seed": 3},
        ),
        small_task(folder, "asked-to-end", train={**same, "global_batch": 4, "seed": 5}),
    ]


def train(index: int, folder: Path, uri: str) -> None:
    torch.set_num_threads(1)
    for task in tasks(folder):
        job.finetune(task, folder / "alone" / task.name, uri)
    together = folder / "together"
    for name in (*NAMES, "broken"):
        (together / name).mkdir(parents=True)
    preemption.ask(together / "asked-to-end")
    broken = small_task(folder, "broken", train={"sequence_length": 8, "micro_batch": 4})
    nowhere = broken.data.model_copy(update={"train": folder / "nowhere.jsonl"})
    all_tasks = [*tasks(folder), broken.model_copy(update={"data": nowhere})]
    found = job.finetune_together(all_tasks, [together / task.name for task in all_tasks], uri)
    assert isinstance(found[2], PreemptedError), found[2]
    assert isinstance(found[3], FileNotFoundError), found[3]
    preemption.take_back(together / "asked-to-end")
    resumed = job.finetune(all_tasks[2], together / "asked-to-end", uri)
    results = [result.after for result in (found[0], found[1], resumed)]
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    spawn(train, args=(folder, register_base(folder)), nprocs=1)
    return folder


def steps(folder: Path) -> list[tuple[float, ...]]:
    lines = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    keys = ("step", "loss", "learning_rate", "gradient_norm", "depth")
    return [tuple(event[key] for key in keys) for event in lines if event["event"] == "step"]


@pytest.mark.parametrize("name", NAMES)
def test_losses_norms_and_adapters_are_those_of_jobs_alone(done: Path, name: str) -> None:
    alone, together = (steps(done / how / name) for how in ("alone", "together"))
    assert len(alone) == len(together) == (7 if name == "other" else 12)
    for one, other in zip(alone, together, strict=True):
        assert other == pytest.approx(one, rel=1e-4), "float32, summed in another order"
    one, other = (
        load_file(done / how / name / "adapter/adapter.safetensors") for how in ("alone", "together")
    )
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(other[key], one[key], rtol=1e-4, atol=1e-5)


def test_a_job_that_ended_early_went_on_alone(done: Path) -> None:
    lines = (done / "together/asked-to-end/events.jsonl").read_text().splitlines()
    kinds = [event["event"] for event in map(json.loads, lines)]
    assert kinds.index("preempted") < kinds.index("resumed") < kinds.index("finished")
    assert kinds[: kinds.index("resumed")].count("step") == 1


def test_each_has_its_version_and_its_scores(done: Path) -> None:
    uri = f"sqlite:///{done}/mlflow.db"
    found = {version.name for version in registry.versions(uri)}
    for name, after in zip(NAMES, json.loads((done / "results.json").read_text()), strict=True):
        assert f"base--small--{name}" in found
        lines = (done / "alone" / name / "events.jsonl").read_text().splitlines()
        scores = [e["validation_accuracy"] for e in map(json.loads, lines) if e["event"] == "validation"]
        assert after == scores[-1]


def test_gradients_are_those_of_passes_apart_to_1e_6() -> None:
    torch.manual_seed(0)
    # In float64: how far float32 is from that depends on the machine, apart and together alike.
    base = FrozenBase(Odeformer(tiny_shape(vocabulary_size=40, context_length=16)).double())
    made = [Adapter(AdapterConfig(rank=rank), base.model.config).double() for rank in (2, 4, 4)]
    for adapter in made:
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    rows = torch.randint(40, (3, 4, 11))

    def gradients(model: Any, adapter: Adapter, ids: torch.Tensor, finish: Any) -> torch.Tensor:
        adapter.zero_grad()
        token_losses(model(ids[:, :-1], 6).logits, ids[:, 1:]).mean().backward()
        finish()
        return torch.cat([p.grad.flatten() for p in adapter.parameters()])

    together = Together(base)
    members = [together.member(adapter) for adapter in made]
    jobs = [
        partial(gradients, member, adapter, ids, member.finish_backward)
        for member, adapter, ids in zip(members, made, rows, strict=True)
    ]
    found = together.run(jobs)
    for adapter, ids, joint in zip(made, rows, found, strict=True):
        alone = gradients(lambda x, n, a=adapter: base(x, n, [a]), adapter, ids, lambda: None)
        assert isinstance(joint, torch.Tensor)
        assert float((joint - alone).norm() / alone.norm()) < 1e-6


def test_a_job_that_breaks_between_its_passes_holds_up_nobody() -> None:
    torch.manual_seed(0)
    base = FrozenBase(Odeformer(tiny_shape(vocabulary_size=40, context_length=16)))
    together = Together(base)
    members = [together.member(Adapter(AdapterConfig(rank=2), base.model.config)) for _ in range(3)]
    ids = torch.randint(40, (4, 11))

    def job_of(member: Any, breaks: str) -> int:
        for turn in range(3):
            if breaks == "before" and turn == 1:
                raise ValueError("before")
            logits = member(ids, 4).logits
            if breaks == "between" and turn == 1:
                raise ValueError("between")
            logits.sum().backward()
            member.finish_backward()
        return 3

    found: list[Any] = []
    jobs = [partial(job_of, m, b) for m, b in zip(members, ("", "before", "between"), strict=True)]
    thread = threading.Thread(target=lambda: found.extend(together.run(jobs)), daemon=True)
    thread.start()
    thread.join(60)
    assert [str(result) for result in found] == ["3", "before", "between"]


def test_a_pass_that_fails_fails_all_its_jobs() -> None:
    base = FrozenBase(Odeformer(tiny_shape(vocabulary_size=40, context_length=16)))
    together = Together(base)
    members = [together.member(Adapter(AdapterConfig(rank=2), base.model.config)) for _ in range(2)]
    too_long = torch.zeros(2, 17, dtype=torch.long)
    found = together.run([lambda m=m: m(too_long, 4) for m in members])
    assert all("longer than context_length 16" in str(error) for error in found)
    assert all(isinstance(error, JointPassError) for error in found), "of none of them alone"


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 2},
        {"method": "norms"},
        {"base": "models:/base/2"},
        {"train": {"sequence_length": 16}},
        {"train": {"sequence_length": None}},
        {"train": {"sequence_length": 8, "global_batch": 4}},
        {"train": {"sequence_length": 8, "gradient": "reversible"}},
        {"latency_ms": 5.0, "train": {"sequence_length": 8}},
    ],
)
def test_tasks_of_other_shapes_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    one = small_task(tmp_path, "one", train={"sequence_length": 8})
    other = small_task(tmp_path, "other", **{"train": {"sequence_length": 8}, **changes})
    with pytest.raises(ValueError, match="same base, depth"):
        job.finetune_together([one, other], [tmp_path, tmp_path], "sqlite:///nowhere")
