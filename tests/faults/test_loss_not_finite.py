"""Steps with a loss or gradient that is not finite are skipped; too many cause a rollback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import spawn
from small_runs import events, small_settings
from torch import Tensor
from torch import distributed as dist
from torch.multiprocessing import ProcessRaisedException

from cluster.settings import GuardSettings, PretrainSettings
from cluster.training.guards import Guards, StepResult
from data.stream import ShardStream

MICRO_BATCHES = 2
"""Of a rank in each step: a global batch of 8, a micro-batch of 2, two workers."""


class Poisoned(torch.autograd.Function):
    """The identity, with a NaN gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * float("nan")


def run(settings: PretrainSettings, *, loss: Sequence[int] = (), gradient: Sequence[int] = ()) -> None:
    """Run two workers; on rank 1 the loss of a sample, or the gradients, are NaN in the listed steps.

    Steps are counted from 1 in the order in which they begin.
    """
    meeting = settings.run.dir.parent / f"store-{len(list(settings.run.dir.parent.glob('store-*')))}"
    content = settings.model_dump(mode="json")
    spawn(_worker, args=(str(meeting), content, [*loss], [*gradient]), nprocs=2)


def _worker(rank: int, meeting: str, content: dict[str, Any], loss: list[int], gradient: list[int]) -> None:
    from cluster.pretrain import pretrain_worker
    from cluster.tracking import runs
    from cluster.training import step as steps
    from cluster.training import worker

    torch.set_num_threads(1)
    settings = PretrainSettings.model_validate(content)
    assert settings.tracking.uri is not None
    if rank == 0:
        runs.start_run(settings.tracking.uri, "test", "test", content, settings.run.dir)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    dist.barrier()
    healthy_losses, healthy_step, calls = steps.token_losses, worker.optimizer_step, 0

    def losses(*args: Tensor) -> Tensor:
        nonlocal calls
        step, of_step = divmod(calls, MICRO_BATCHES)
        calls += 1
        found = healthy_losses(*args)
        if rank == 1 and of_step == 0 and step + 1 in loss:
            found = found * torch.tensor([float("nan"), 1.0])[:, None]
        return Poisoned.apply(found) if rank == 1 and step + 1 in gradient else found  # type: ignore[no-any-return]

    def step(engine: Any, *args: Any) -> StepResult:
        result = healthy_step(engine, *args)
        with (settings.run.dir / f"digests-{rank}").open("a") as file:
            file.write(f"{digest(engine)}\n")
        return result

    steps.token_losses, worker.optimizer_step = losses, step
    pretrain_worker({"settings": content})
    dist.destroy_process_group()
    os._exit(0)


def digest(engine: Any) -> str:
    """Digest of this rank's weights and optimizer state."""
    sha = hashlib.sha256()
    for parameter in engine.module.parameters():
        sha.update(getattr(parameter, "ds_tensor", parameter).detach().numpy().tobytes())
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for state in inner.state.values():
        for value in state.values():
            sha.update(torch.as_tensor(value).detach().numpy().tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize(
    ("optimizer", "stage"),
    [
        *(("adamw", stage) for stage in (0, 3)),
        *(("muon", stage) for stage in (0, 2)),
        *(pytest.param("adamw", stage, marks=pytest.mark.slow) for stage in (1, 2)),
        pytest.param("muon", 1, marks=pytest.mark.slow),
    ],
)
def test_a_step_that_is_not_finite_changes_nothing_on_any_rank(
    settings: Callable[..., PretrainSettings], optimizer: str, stage: int
) -> None:
    made = settings(zero={"stage": stage}, train={"depths": []}, optim={"name": optimizer, "muon_rate": 4})
    run(made, loss=[3], gradient=[5])
    assert [event["step"] for event in events(made.run.dir, "step")] == [1, 2, 4, 6]
    batches = [batch.sample_ids.tolist() for batch, _ in zip(whole_stream(made), range(6), strict=False)]
    by_loss, by_gradient = events(made.run.dir, "skipped")
    assert (by_loss["step"], by_loss["reason"]) == (3, "loss")
    assert by_loss["samples"] == [batches[2][4]]  # the first of the second rank's half
    assert (by_gradient["step"], by_gradient["reason"]) == (5, "gradient")
    assert by_gradient["samples"] == batches[4]
    for rank in (0, 1):
        after = (made.run.dir / f"digests-{rank}").read_text().split()
        assert after[2] == after[1]
        assert after[4] == after[3]
        assert len(set(after)) == 4
    assert events(made.run.dir, "validation")[-1]["validation_loss_4"] < 7


def test_too_many_in_a_row_and_the_run_goes_back_and_on_with_other_samples(
    settings: Callable[..., PretrainSettings],
) -> None:
    made = settings(
        train={"depths": [], "steps": 8, "validate_every": 8},
        checkpoint={"every": 2, "keep": 9},
        guard={"max_skipped": 2},
    )
    run(made, loss=[4, 5])
    [back] = events(made.run.dir, "rollback")
    assert (back["step"], back["to"]) == (5, 2)
    assert [event["step"] for event in events(made.run.dir, "step")] == [1, 2, 3, 3, 4, 5, 6, 7, 8]
    commits = made.run.dir / "checkpoints"
    cursors = {path.name[-1]: cursor_of(path) for path in sorted(commits.glob("step-*"))}
    # Up to step 2 each step took its 8 samples; those of the steps 3 to 5 are passed over.
    assert cursors == {"2": 16, "4": 56, "6": 72, "8": 88}

    # Resumed from that same commit, it takes the same road.
    first = {event["step"]: event["loss"] for event in events(made.run.dir, "step")}
    for step in (4, 6, 8):
        shutil.rmtree(commits / f"step-{step:09d}")
    run(made)
    again = events(made.run.dir, "step")[-6:]
    assert [event["step"] for event in again] == [3, 4, 5, 6, 7, 8]
    assert [event["loss"] for event in again] == [first[event["step"]] for event in again]


def test_a_run_that_goes_wrong_whenever_it_goes_on_stops(settings: Callable[..., PretrainSettings]) -> None:
    made = settings(
        train={"depths": [], "steps": 8},
        checkpoint={"every": 2},
        guard={"max_skipped": 1, "max_rollbacks": 1},
    )
    with pytest.raises(ProcessRaisedException, match=r"after 1 rollback to step 2"):
        run(made, loss=[*range(3, 99)])
    assert len(events(made.run.dir, "rollback")) == 1
    [commit] = (made.run.dir / "checkpoints").glob("step-*")
    assert commit.name.endswith("2")


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("on_spike", ["event", "skip"])
def test_a_spike_is_far_outside_the_recent_losses(
    settings: Callable[..., PretrainSettings], tmp_path: Path, on_spike: str
) -> None:
    reported: list[tuple[str, int, dict[str, Any]]] = []
    stream = whole_stream(settings())
    guards = Guards(
        GuardSettings.model_validate({"on_spike": on_spike, "spike_window": 10, "spike_deviations": 5}),
        stream,
        tmp_path,
        lambda *event: reported.append(event),
    )

    def after(step: int, loss: float, norm: float = 1.0) -> None:
        assert not guards.must_roll_back(step, StepResult(loss, 8, norm, []), [7])

    for step in range(10):
        assert guards.loss_limit == float("inf"), "too few losses to judge by"
        after(step, 3.0 + 0.1 * (-1) ** step)
    assert guards.spike == pytest.approx(3.0 + 5 * 1.4826 * 0.1)
    if on_spike == "event":
        assert guards.loss_limit == float("inf")
        after(11, 4.0)
        assert [event[:2] for event in reported] == [("spike", 11)]
    else:
        assert guards.loss_limit == guards.spike
        after(11, 4.0, norm=float("inf"))  # as it comes back when it was above the limit
        assert reported == [("skipped", 11, {"reason": "spike", "samples": [7], "loss": 4.0})]
    before = guards.spike
    other = Guards(GuardSettings(spike_window=10, spike_deviations=5), stream, tmp_path, lambda *event: None)
    other.load_state_dict(json.loads(json.dumps(guards.state_dict())))
    assert other.spike == before


def whole_stream(settings: PretrainSettings) -> ShardStream:
    """The run's samples as a single rank reads them."""
    return ShardStream(
        settings.data.shards,
        rank=0,
        world_size=1,
        global_batch=settings.train.global_batch,
        sequence_length=settings.data.sequence_length,
        seed=settings.data.seed,
    )


def cursor_of(commit: Path) -> int:
    """Position in the data at a commit."""
    return int(json.loads((commit / "commit.json").read_text())["stream"]["cursor"])


@pytest.fixture
def settings(shards: Path, tmp_path: Path) -> Callable[..., PretrainSettings]:
    """Settings of a short run."""
    return lambda **sections: small_settings(shards, tmp_path, **sections)
