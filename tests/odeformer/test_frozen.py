"""A frozen base under adapters: W(t) once, nothing of it differentiated, each part of a batch its own."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import config, ids, shake, tiny_model
from torch import Tensor

from odeformer import checkpoint
from odeformer.config import AdapterConfig
from odeformer.field.adapted import adapted_linear
from odeformer.frozen import FrozenBase, Tuned
from odeformer.lora import Adapter
from odeformer.model import SolveOptions, token_losses

SHAPES = (
    AdapterConfig(rank=2, targets=("qkv", "up"), size=2),
    AdapterConfig(rank=3, size=1, targets=("qkv", "out", "up", "down", "embedding")),
    AdapterConfig(rank=1, targets=("down",), size=3),
)


def adapters(shape: str = "neox", dtype: torch.dtype = torch.float64) -> list[Adapter]:
    torch.manual_seed(1)
    made = [Adapter(config_, config(flavour=shape)).to(dtype) for config_ in SHAPES]
    for adapter in made:
        shake(adapter, 0.3)
    return made


def gradient_of(base: FrozenBase, adapter: Adapter, rows: Tensor, depth: int) -> list[Tensor]:
    loss = token_losses(base(rows[:, :-1], depth, [adapter]).logits, rows[:, 1:]).mean()
    return list(torch.autograd.grad(loss, list(adapter.parameters())))


@pytest.mark.parametrize("depth", [3, 4, 8])
def test_a_frozen_base_gives_the_adapted_models_logits(depth: int) -> None:
    model, [adapter, *_] = tiny_model().double().eval(), adapters()
    model.hypernetwork.adapter = adapter
    with torch.no_grad():
        expected = model(ids(), depth=depth).logits
        model.hypernetwork.adapter = None
        found = FrozenBase(model)(ids(), depth, [adapter])
    assert torch.equal(found.logits, expected)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
@pytest.mark.parametrize("flavour", ["neox", "llama"])
def test_one_pass_for_several_adapters_is_a_pass_for_each(gradient: str, flavour: str) -> None:
    model = tiny_model(flavour=flavour).double()
    model.options = replace(model.options, gradient=gradient)
    base, made = FrozenBase(model), adapters(flavour)
    rows = [ids(seed=seed) for seed in range(3)]
    apart = [gradient_of(base, a, r, 6) for a, r in zip(made, rows, strict=True)]
    logits = base(torch.cat(rows)[:, :-1], 6, made).logits
    losses = [token_losses(part, r[:, 1:]).mean() for part, r in zip(logits.chunk(3), rows, strict=True)]
    torch.stack(losses).sum().backward()
    for adapter, expected in zip(made, apart, strict=True):
        found = [parameter.grad for parameter in adapter.parameters()]
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
def test_nothing_of_the_base_is_in_the_graph(gradient: str) -> None:
    model = tiny_model()
    model.options = replace(model.options, gradient=gradient)
    adapter = Adapter(SHAPES[0], model.config)
    shake(adapter, 0.3)
    tuned = Tuned(FrozenBase(model), adapter).train()
    loss = token_losses(tuned(ids()[:, :-1]).logits, ids()[:, 1:]).mean()
    leaves, seen, waiting = set(), set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaves |= {node.variable} if hasattr(node, "variable") else set()
        waiting += [following for following, _ in node.next_functions]
    if gradient == "direct":  # what is computed again is not in the graph of the first pass
        assert leaves == set(adapter.parameters())
    loss.backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in adapter.parameters())


def test_weights_are_made_once_for_each_grid_and_only_a_few_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, made = tiny_model(), []
    base, make = FrozenBase(model), model.depth_weights
    monkeypatch.setattr(model, "depth_weights", lambda depth: made.append(depth) or make(depth))
    for depth in (4, 4, 6, 4, 6, 8, 10, 12, 12, 4):
        base(ids(), depth)
    assert made == [4, 6, 8, 10, 12, 4]
    model.options = SolveOptions("rk4")
    base(ids(), 4)
    assert made[-1] == 4, "another solver needs other weights"
    assert len(made) == 7


def test_only_the_adapter_is_a_tuned_models_own() -> None:
    model = tiny_model()
    tuned = Tuned(FrozenBase(model), Adapter(SHAPES[1], model.config))
    assert all(name.startswith("adapter.") for name, _ in tuned.named_parameters())
    assert set(tuned.state_dict()) == {name for name, _ in tuned.named_parameters()}
    with pytest.raises(ValueError, match="a frozen base uses precomputed weights"):
        tuned.options = replace(tuned.options, gradient="reversible")


def test_a_settled_base_runs_at_its_depth_and_holds_no_weight_sets() -> None:
    model = tiny_model().eval()
    with torch.no_grad():
        expected = model(ids(), depth=6).logits
        base = FrozenBase(model)
        base.settle(6)
        assert torch.equal(base(ids(), 6).logits, expected)
    assert all(parameter.is_meta for parameter in model.hypernetwork.parameters())
    with pytest.raises(ValueError, match="at the depth it was settled at"):
        base(ids(), 4)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_an_adapted_projection_is_its_formula(parts: int, bias: bool) -> None:
    torch.manual_seed(0)
    shapes = {"x": (6, 5, 4), "w": (7, 4), "a": (parts, 2, 4), "b": (parts, 7, 2), "bias": (7,)}
    made = {n: torch.randn(s, dtype=torch.float64, requires_grad=True) for n, s in shapes.items()}
    x, w, a, b = (made[name] for name in ("x", "w", "a", "b"))
    added = made["bias"] if bias else None
    pair = (a[0], b[0]) if parts == 1 else (a, b)

    def grads(y: Tensor) -> tuple[Tensor, ...]:
        wanted = [t for n, t in made.items() if bias or n != "bias"]
        return (y, *torch.autograd.grad((y * torch.arange(7.0)).square().sum(), wanted))

    change = [part @ a[j].T @ b[j].T for j, part in enumerate(x.chunk(parts))]
    expected = grads(torch.nn.functional.linear(x, w, added) + torch.cat(change))
    torch.testing.assert_close(grads(adapted_linear(x, w, added, *pair)), expected)


def test_an_adapted_projection_under_autocast_has_its_dtype() -> None:
    x, w, a, b = torch.randn(2, 3, 8), torch.randn(8, 8), torch.randn(2, 8), torch.randn(8, 2)
    a.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        y = adapted_linear(x, w, None, a, b)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert a.grad is not None
    assert a.grad.dtype == torch.float32
    expected = (b.sum(0)[:, None] * x.sum(dim=(0, 1))).detach()
    torch.testing.assert_close(a.grad, expected, rtol=5e-2, atol=5e-1)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
def test_a_loaded_base_is_the_files_pages_which_processes_share(tmp_path: Path) -> None:
    model = tiny_model(vocabulary_size=4000)
    (tmp_path / "tokenizer.json").write_text("{}")
    checkpoint.save(model.state_dict(), model.config, "euler", tmp_path / "tokenizer.json", tmp_path / "base")
    base = FrozenBase(checkpoint.load(tmp_path / "base"))
    base(ids(), 4, [Adapter(SHAPES[0], model.config)]).logits.sum().backward()
    smaps = Path("/proc/self/smaps").read_text()
    [mapping] = re.findall(rf"{tmp_path}/base/model\.safetensors\n(.*?)VmFlags", smaps, re.DOTALL)
    assert re.search(r"Anonymous: +0 kB", mapping), "nothing of the base was copied"
    assert re.search(r"Rss: +[1-9]", mapping)
