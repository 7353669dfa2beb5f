"""Muon against a slow reference, at each ZeRO stage that it supports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import events, run_workers, tiny_shape
from torch import Tensor

import odeformer
from cluster.settings import OptimSettings, PretrainSettings
from cluster.training import zero
from cluster.training.schedule import learning_rate
from cluster.training.shards import open_stream
from odeformer.depth import batch_depth
from odeformer.model import Odeformer, SolveOptions, token_losses

OPTIM = {"name": "muon", "learning_rate": 5e-3, "muon_rate": 4.0}


def orthogonalized(matrix: Tensor) -> Tensor:
    """Five quintic Newton–Schulz iterations of one matrix, as Jordan published them, in float64."""
    x = matrix.double() / (matrix.double().norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    rows, columns = matrix.shape
    return (x * max(1.0, rows / columns) ** 0.5).float()


def plain_losses(settings: PretrainSettings) -> tuple[list[float], Odeformer]:
    """Losses of the same training in a plain loop, in which each set of each tensor is updated by itself."""
    torch.manual_seed(settings.run.seed)
    model, optim, train = Odeformer(settings.model), settings.optim, settings.train
    model.options = SolveOptions(train.solver_for(settings.model))
    sets = {name: p for name, p in model.hypernetwork.named_parameters(recurse=False) if p.ndim == 3}
    momenta = {name: torch.zeros_like(p) for name, p in sets.items()}
    groups = zero.parameter_groups(model, OptimSettings())
    mine = {id(p) for p in sets.values()}
    rest = [{**group, "params": [p for p in group["params"] if id(p) not in mine]} for group in groups]
    adamw = torch.optim.AdamW(rest, lr=optim.learning_rate, betas=optim.betas)
    batches, losses = iter(open_stream(settings, "train")), []
    for step in range(train.steps):
        rate = learning_rate(optim, step, train.steps)
        for group in adamw.param_groups:
            group["lr"] = rate * group["rate"]
        tokens = next(batches).tokens
        depth = batch_depth(settings.run.seed, step, train.depths)
        model.zero_grad()
        loss = token_losses(model(tokens[:, :-1], depth=depth).logits, tokens[:, 1:]).mean()
        loss.backward()
        adamw.step()
        with torch.no_grad():
            for name, p in sets.items():
                assert p.grad is not None
                momenta[name] = optim.muon_momentum * momenta[name] + (1 - optim.muon_momentum) * p.grad
                ahead = optim.muon_momentum * momenta[name] + (1 - optim.muon_momentum) * p.grad
                p *= 1 - rate * optim.muon_rate * optim.weight_decay
                for k in range(len(p)):
                    p[k] -= rate * optim.muon_rate * orthogonalized(ahead[k])
        losses.append(loss.item())
    return losses, model


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_muon_trains_like_a_plain_loop(settings: Callable[..., PretrainSettings], stage: int) -> None:
    run = settings(train={"steps": 8, "validate_every": 8}, optim=OPTIM, zero={"stage": stage})
    expected, model = plain_losses(run)
    run_workers(run)
    losses = [event["loss"] for event in events(run.run.dir, "step")]
    assert losses == pytest.approx(expected, abs=1e-4)
    assert losses[-1] < losses[0] - 0.3, "it should learn something, or equal losses say little"
    final = odeformer.load(run.run.dir / "final").state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(final[name], tensor, atol=2e-3, rtol=0)


def test_muon_takes_the_matrices_of_the_weight_sets_alone() -> None:
    model = Odeformer(tiny_shape(50, 8))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = zero.parameter_groups(model, OptimSettings(name="muon", weight_decay=0.3))
    muon = [names[id(p)] for group in groups if group.get("use_muon") for p in group["params"]]
    matrices = [name for name, spec in model.hypernetwork.tensors.items() if len(spec.shape) == 2]
    assert sorted(muon) == sorted(f"hypernetwork.{name}" for name in matrices)
    assert len(names) == sum(len(group["params"]) for group in groups)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"zero": {"stage": 3}}, r"optim\.name muon needs whole matrices .*: use zero\.stage 0, 1 or 2"),
        ({"zero": {"offload_optimizer": "cpu"}}, r"without zero\.offload_optimizer"),
        ({"optim": {**OPTIM, "clip": 1.0}}, r"optim\.clip cannot be used with optim\.name muon"),
    ],
)
def test_what_muon_does_not_go_with_is_named(
    settings: Callable[..., PretrainSettings], tmp_path: Path, sections: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**{"optim": OPTIM, **sections})
    assert not (tmp_path / "run").exists()
