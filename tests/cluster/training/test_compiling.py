"""When a run compiles, and how often a step waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import run_workers
from torch.utils._python_dispatch import TorchDispatchMode

from cluster import pretrain
from cluster.settings import PretrainSettings, TrainSettings
from cluster.training import worker
from cluster.training.compiling import decide
from odeformer import checkpoint
from odeformer.config import BasisConfig, ModelConfig
from odeformer.model import Odeformer

CONFIG = ModelConfig(
    width=16,
    heads=2,
    depth=4,
    basis=BasisConfig(kind="smooth_mlp", size=4),
    vocabulary_size=32,
    context_length=8,
)


def train(**fields: Any) -> TrainSettings:
    return TrainSettings.model_validate({"steps": 100, "global_batch": 4, "micro_batch": 4, **fields})


def test_auto_compiles_long_runs_where_there_is_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Odeformer(CONFIG)
    assert decide(train(), model, "cpu", 1) == (False, "not compiled: too short a run for it to pay")
    long = train(steps=10**9)
    assert decide(long, model, "cpu", 1).compiled
    assert not decide(train(steps=10**9, gradient="adjoint"), model, "cpu", 1).compiled
    assert not decide(train(steps=10**9, compile="off"), model, "cpu", 1).compiled
    assert decide(train(compile="on"), model, "cpu", 1).compiled

    monkeypatch.setenv("CXX", "no-such-compiler")
    assert decide(long, model, "cpu", 1).reason.startswith("not compiled: there is no C++ compiler 'no-such")
    with pytest.raises(RuntimeError, match=r"train.compile is on, but there is no C.. compiler"):
        decide(train(compile="on"), model, "cpu", 1)


def test_compiling_with_the_adjoint_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train.compile on cannot be used with gradient adjoint"):
        train(compile="on", gradient="adjoint")


class Waits(TorchDispatchMode):
    """Counts the operations for which the CPU would wait until an accelerator has computed a number."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "masked_select")
        return func(*args, **(kwargs or {}))


def pretrain_and_count_waits(config: dict[str, Any]) -> None:
    """Worker function: a line in ``waits`` for each step."""
    step, waits = worker.optimizer_step, Path(config["settings"]["run"]["dir"]) / "waits"

    def counted(*arguments: Any) -> Any:
        with Waits() as waited:
            result = step(*arguments)
        with waits.open("a") as file:
            print(waited.count, file=file)
        return result

    worker.optimizer_step = counted
    pretrain.pretrain_worker(config)


def test_a_step_waits_as_often_with_more_micro_batches_and_cells(
    settings: Callable[..., PretrainSettings],
) -> None:
    waits = []
    for name, micro_batch, depths in (("few", 4, ()), ("many", 1, (8,))):
        run = settings(
            train={"steps": 2, "global_batch": 4, "micro_batch": micro_batch, "depths": depths},
            cluster={"workers": 1},
        )
        run = run.model_copy(update={"run": run.run.model_copy(update={"dir": run.run.dir / name})})
        run_workers(run, work=pretrain_and_count_waits)
        waits.append((run.run.dir / "waits").read_text().splitlines())
    assert waits[0] == waits[1]


def pretrain_up_to_step_3(config: dict[str, Any]) -> None:
    """Worker function: the third step fails."""
    step, made = worker.optimizer_step, iter(range(2))

    def stepping(*arguments: Any) -> Any:
        if next(made, None) is None:
            raise RuntimeError("this step is broken")
        return step(*arguments)

    worker.optimizer_step = stepping
    pretrain.pretrain_worker(config)


@pytest.mark.slow
def test_a_compiled_run_that_was_interrupted_has_the_same_weights(
    settings: Callable[..., PretrainSettings],
) -> None:
    weights = []
    for name in ("whole", "resumed"):
        run = settings(train={"steps": 4, "compile": "on"}, checkpoint={"every": 2}, cluster={"workers": 1})
        run = run.model_copy(update={"run": run.run.model_copy(update={"dir": run.run.dir / name})})
        if name == "resumed":
            with pytest.raises(Exception, match="this step is broken"):
                run_workers(run, work=pretrain_up_to_step_3)
        run_workers(run)
        weights.append(checkpoint.load(run.run.dir / "final").state_dict())
    whole, resumed = weights
    assert all(torch.equal(whole[tensor], resumed[tensor]) for tensor in whole)
