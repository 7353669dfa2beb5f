"""Commits of any ZeRO stage can be loaded at any other: weights, moments and step."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from small_runs import run_workers, tiny_shape
from torch import distributed as dist

from cluster.checkpoints.commit import Checkpoints
from cluster.checkpoints.host_copy import HostCopies
from cluster.settings import (
    CheckpointSettings,
    OptimSettings,
    PretrainSettings,
    TrainSettings,
    ZeroSettings,
)
from cluster.training import zero
from odeformer.model import Odeformer, token_losses

OPTIM = OptimSettings(learning_rate=5e-3, coefficient_rate=3.0, weight_decay=0.5)
MUON = OptimSettings(name="muon", learning_rate=5e-3, muon_rate=4, coefficient_rate=3.0, weight_decay=0.5)


class Cursor:
    def __init__(self) -> None:
        self.place = 0

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place = state["place"]


class Run:
    """An engine at a stage, its stream and its commits."""

    def __init__(self, stage: int, folder: Path, seed: int = 0, optim: OptimSettings = OPTIM) -> None:
        torch.manual_seed(seed)
        train = TrainSettings(steps=10, global_batch=2, micro_batch=1)
        settings = ZeroSettings(stage=stage, param_persistence_threshold=0)  # type: ignore[arg-type]
        self.engine = zero.initialize(Odeformer(tiny_shape(50, 8)), train, optim, settings, folder)
        self.optim = optim
        self.stream, self.events, self.folder = Cursor(), list[str](), folder
        self.commits = Checkpoints(
            self.engine,
            self.stream,
            folder,
            CheckpointSettings(),
            lambda event, step, values: self.events.append(event),
            seed,
        )

    def restore(self, commits: Path) -> int:
        """Load the commit of another run; returns its step."""
        if dist.get_rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.copytree(commits, self.folder)
        dist.barrier()
        return self.commits.restore()

    def train(self, steps: int) -> dict[str, torch.Tensor]:
        """The weights after some more steps, on rank 0."""
        for _ in range(steps):
            for group in self.engine.optimizer.param_groups:
                group["lr"] = self.optim.learning_rate * group["rate"]
            torch.manual_seed(100 * self.stream.place + dist.get_rank())
            rows = torch.randint(0, 50, (1, 9))
            self.engine.backward(token_losses(self.engine(rows[:, :-1]).logits, rows[:, 1:]).mean())
            zero.apply_gradients(self.engine, self.optim.max_norm)
            self.stream.place += 1
        return zero.whole_state(self.engine)


def copy_late() -> None:
    """Delay the copy, so that only waiting for it keeps the next step from changing the state."""
    fill = HostCopies.fill

    def fill_late(self: HostCopies) -> None:
        time.sleep(0.3)
        fill(self)

    HostCopies.fill = fill_late  # type: ignore[method-assign]


def load_everywhere(config: dict[str, Any]) -> None:
    load_at(config, OPTIM, range(4))


def load_muon_everywhere(config: dict[str, Any]) -> None:
    torch.compiler.set_stance("force_eager")
    load_at(config, MUON, range(3))


def load_at(config: dict[str, Any], optim: OptimSettings, stages: Iterable[int]) -> None:
    copy_late()
    root = Path(config["settings"]["run"]["dir"]) / "stages"
    root.mkdir(exist_ok=True)
    live = {stage: Run(stage, root / f"live-{stage}", 1, optim) for stage in stages}
    for run in live.values():
        run.train(2)  # something that must be forgotten
    for stage in stages:
        folder = root / str(stage)
        origin = Run(stage, folder, optim=optim)
        committed = origin.train(3)
        origin.commits.save(3)
        # The state of this step is what is committed, however much training goes on meanwhile.
        gone_on = origin.train(3)
        origin.commits.wait()
        for other, run in live.items():
            assert run.restore(folder) == 3
            assert run.stream.place == 3
            assert ("checkpoint_converted" in run.events) == (other != stage)
            run.events.clear()
            assert_close(run.train(0), committed, 0)
            # Three steps see moments, bias corrections, rates and decay; a rank computes its sums in an
            # order of its stage, and AdamW's first steps make much of the smallest differences.
            assert_close(run.train(3), gone_on, 0 if other == stage else 2e-4)
        assert not list(folder.glob(".*"))


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        difference = (found[name] - tensor).abs().max().item()
        assert difference <= atol, f"{name} differs by {difference:.1e}"


def test_every_stage_loads_what_every_stage_committed(settings: Callable[..., PretrainSettings]) -> None:
    run_workers(settings(), work=load_everywhere)


def test_muon_goes_on_from_what_every_stage_committed(settings: Callable[..., PretrainSettings]) -> None:
    run_workers(settings(), work=load_muon_everywhere)
