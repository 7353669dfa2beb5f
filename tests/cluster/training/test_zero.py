"""ZeRO's stages against a plain loop, and DeepSpeed's pitfalls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import events, run_workers, tiny_shape
from torch import Tensor

import odeformer
from cluster.settings import OptimSettings, PretrainSettings
from cluster.training import zero
from cluster.training.schedule import learning_rate
from data.elastic import documents_of
from data.manifest import load_manifest
from data.stream import ShardStream
from odeformer.depth import batch_depth
from odeformer.model import Odeformer, SolveOptions, token_losses

MakeSettings = Callable[..., PretrainSettings]


def plain_losses(settings: PretrainSettings) -> tuple[list[float], Odeformer]:
    """Losses of the same training in plain torch, with one backward pass per step."""
    torch.manual_seed(settings.run.seed)
    model = Odeformer(settings.model)
    optim, train = settings.optim, settings.train
    model.options = SolveOptions(train.solver_for(settings.model))
    if train.gradient == "adjoint":  # any other gives the gradient that the default does
        model.options = replace(model.options, gradient=train.gradient)
    optimizer = torch.optim.AdamW(
        zero.parameter_groups(model, optim), lr=optim.learning_rate, betas=optim.betas
    )
    batches = iter(
        ShardStream(
            settings.data.shards,
            rank=0,
            world_size=1,
            global_batch=train.global_batch,
            sequence_length=settings.data.sequence_length,
            seed=settings.data.seed,
        )
    )
    end_of_text = load_manifest(Path(settings.data.shards)).end_of_text
    losses = []
    for step in range(train.steps):
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(optim, step, train.steps) * group["rate"]
        tokens = next(batches).tokens
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        documents = documents_of(inputs, end_of_text) if settings.data.separate_documents else None

        def logits(cells: int, inputs: Tensor = inputs, documents: Tensor | None = documents) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=train.precision == "bf16"):
                return model(inputs, depth=cells, documents=documents).logits

        if step < train.vary_from * train.steps:
            loss = token_losses(logits(settings.model.depth), targets).mean()
            loss.backward()
        elif train.objective == "one_depth":
            loss = token_losses(logits(batch_depth(settings.run.seed, step, train.depths)), targets).mean()
            loss.backward()
        else:
            deep = logits(settings.model.depth)
            others = [n for n in train.depths if n != settings.model.depth]
            shallow = logits(batch_depth(settings.run.seed, step, others))
            loss = token_losses(deep, targets).mean()
            if train.objective == "two_depths":
                second = token_losses(shallow, targets).mean()
            else:
                second = -(deep.detach().softmax(-1) * shallow.log_softmax(-1)).sum(-1).mean()
            ((loss + second) / 2).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.max_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses, model


@pytest.mark.parametrize(
    ("stage", "offload", "steps"),
    [
        *((stage, "none", 16) for stage in (0, 1, 2, 3)),
        (2, "optimizer", 16),
        (3, "optimizer parameters", 16),
        *(pytest.param(stage, "none", 50, marks=pytest.mark.slow) for stage in (0, 1, 2, 3)),
        *(pytest.param(stage, "optimizer", 50, marks=pytest.mark.slow) for stage in (1, 2, 3)),
        *(
            pytest.param(3, part, 20, marks=pytest.mark.slow)
            for part in ("parameters", "optimizer parameters")
        ),
    ],
)
def test_every_stage_trains_like_a_plain_loop(
    settings: MakeSettings, stage: int, offload: str, steps: int
) -> None:
    offloaded = {f"offload_{part}": "cpu" for part in offload.split() if part != "none"}
    zero_settings = {"stage": stage, "param_persistence_threshold": 0, **offloaded}
    run = settings(train={"steps": steps, "validate_every": steps}, zero=zero_settings)
    expected, model = plain_losses(run)
    run_workers(run)
    losses = [event["loss"] for event in events(run.run.dir, "step")]
    assert losses == pytest.approx(expected, abs=1e-4)
    assert losses[-1] < losses[0] - 0.5, "it should learn something, or equal losses say little"
    # What is left in final/ is that model, whole, also when every parameter was partitioned.
    final = odeformer.load(run.run.dir / "final").state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(final[name], tensor, atol=2e-3, rtol=0)


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("objective", ["two_depths", "distillation"])
def test_two_depths_of_a_batch_train_like_a_plain_loop(
    settings: MakeSettings, objective: str, stage: int
) -> None:
    # Three steps at one depth: the passes of the first that has two do not begin at a multiple of two.
    train = {"steps": 8, "objective": objective, "vary_from": 0.3, "validate_every": 8}
    apart = objective == "distillation"
    run = settings(train=train, zero={"stage": stage}, data={"separate_documents": apart})
    assert run.model.depth in run.train.depths
    expected, _ = plain_losses(run)
    run_workers(run)
    assert [e["loss"] for e in events(run.run.dir, "step")] == pytest.approx(expected, abs=1e-4)
    drawn = [e["depth"] for e in events(run.run.dir, "step")]
    assert drawn[:3] == [run.model.depth] * 3
    assert len(set(drawn[3:])) > 1
    assert run.model.depth not in drawn[3:]


@pytest.mark.parametrize(
    ("gradient", "solver", "stages"),
    [  # checkpoint with every stage: above
        ("direct", "euler", (3,)),
        ("reversible", "damped_leapfrog", (2,)),
        ("adjoint", "rk4", (2,)),
        pytest.param("direct", "euler", (0, 1, 2), marks=pytest.mark.slow),
        pytest.param("reversible", "damped_leapfrog", (0, 1), marks=pytest.mark.slow),
        pytest.param("reversible", "fixed_point_leapfrog", (0, 1, 2), marks=pytest.mark.slow),
        pytest.param("adjoint", "rk4", (0, 1), marks=pytest.mark.slow),
    ],
)
def test_gradient_methods_train_like_a_plain_loop_under_every_stage_they_may(
    settings: MakeSettings, tmp_path: Path, gradient: str, solver: str, stages: tuple[int, ...]
) -> None:
    train = {"steps": 6, "gradient": gradient, "solver": solver, "validate_every": 6}
    expected = None
    for stage in stages:
        run = settings(train=train, zero={"stage": stage}, run={"dir": tmp_path / f"stage-{stage}"})
        if expected is None:
            expected, _ = plain_losses(run)
        run_workers(run)
        assert [e["loss"] for e in events(run.run.dir, "step")] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("gradient", "sections", "message"),
    [
        ("reversible", {"train": {"solver": "euler"}}, r"a reversible solver: leapfrog, .* is 'euler'"),
        ("reversible", {"zero": {"stage": 3}}, r"use zero.stage 2, or gradient 'checkpoint'"),
        (
            "reversible",
            {"model": {"flavour": "paper", "rotary_fraction": None}},
            r"set model.dropout 0",
        ),
        ("adjoint", {"train": {"solver": "leapfrog"}}, r"a Runge–Kutta solver: euler, .* is 'leapfrog'"),
        ("adjoint", {"train": {"solver": "rk4"}, "zero": {"stage": 3}}, r"use zero.stage 2, or gradient"),
        ("checkpoint", {"train": {"solver": "dopri5"}}, r"solver 'dopri5' is unknown"),
    ],
)
def test_gradient_methods_are_refused_where_they_would_be_wrong(
    settings: MakeSettings, gradient: str, sections: dict[str, dict[str, object]], message: str
) -> None:
    train = {"gradient": gradient, "solver": "leapfrog", **sections.get("train", {})}
    with pytest.raises(ValueError, match=message) as refused:
        settings(**{**sections, "train": train})
    assert len(refused.value.errors()) == 1  # type: ignore[attr-defined]


def test_a_second_depth_must_be_there(settings: MakeSettings) -> None:
    with pytest.raises(ValueError, match=r"'two_depths' needs a depth in train.depths besides model.depth 4"):
        settings(train={"objective": "two_depths", "depths": (4, 4)})


@pytest.mark.parametrize(
    ("stage", "steps"),
    [(2, 10), *(pytest.param(stage, 50, marks=pytest.mark.slow) for stage in (0, 3))],
)
def test_bf16_is_autocast_with_float32_weights(settings: MakeSettings, stage: int, steps: int) -> None:
    train = {"steps": steps, "validate_every": steps}
    zero_settings = {"stage": stage, "param_persistence_threshold": 0}
    run = settings(train={**train, "precision": "bf16"}, zero=zero_settings)
    rounded, _ = plain_losses(run)
    exact, _ = plain_losses(settings(train=train, zero=zero_settings))
    run_workers(run)
    losses = [event["loss"] for event in events(run.run.dir, "step")]
    assert losses == pytest.approx(rounded, abs=5e-3)
    assert losses != pytest.approx(exact, abs=1e-6), "nothing was computed in bf16"
    assert {t.dtype for t in odeformer.load(run.run.dir / "final").state_dict().values()} == {torch.float32}


def test_weight_decay_spares_vectors_and_coefficients() -> None:
    model = Odeformer(tiny_shape(vocabulary_size=32, context_length=8))
    optim = OptimSettings(weight_decay=0.1, coefficient_rate=5.0)
    decayed, vectors, coefficients = zero.parameter_groups(model, optim)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        "embedding.weight",
        *(f"hypernetwork.{name}_weight" for name in ("qkv", "out", "up", "down")),
    }
    assert {names[id(p)].split(".")[1] for p in coefficients["params"]} == {"basis"}
    assert (vectors["weight_decay"], coefficients["weight_decay"]) == (0, 0)
    assert (decayed["rate"], vectors["rate"], coefficients["rate"]) == (1, 1, 5)
    assert sum(len(group["params"]) for group in (decayed, vectors, coefficients)) == len(names)


def test_learning_rate_rises_then_falls_to_its_floor() -> None:
    optim = OptimSettings(learning_rate=1.0, warmup=0.1, final=0.2)
    rates = [learning_rate(optim, step, 100) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.6)
    assert rates[100] == pytest.approx(0.2)
    assert rates[10:] == sorted(rates[10:], reverse=True)
