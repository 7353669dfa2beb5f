import math
from dataclasses import replace

import pytest
import torch
from tiny_models import attach_adapter, config, ids, loss, tiny_model
from torch.utils.flop_counter import FlopCounterMode

from odeformer.config import AdapterConfig
from odeformer.field import block_tensors
from odeformer.lora import Adapter, merge
from odeformer.model import Odeformer, SolveOptions, token_losses
from odeformer.norms import vectors

TARGETS = ("qkv", "out", "up", "down")


def test_pairs_equal_the_cosine_sums() -> None:
    adapter = Adapter(AdapterConfig(rank=3, alpha=5.0, size=3), config()).double()
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    times = torch.rand(4, dtype=torch.float64)
    with torch.no_grad():
        pairs = adapter(times)
    for name in TARGETS:
        a, b = getattr(adapter, f"{name}_lora_a"), getattr(adapter, f"{name}_lora_b")
        for m, t in enumerate(times.tolist()):
            waves = [math.cos(math.pi * j * t) for j in range(3)]
            expected = 5.0 / 3 * sum(waves[i] * waves[j] * b[i] @ a[j] for i in range(3) for j in range(3))
            found = pairs[f"{name}_lora_b"][m] @ pairs[f"{name}_lora_a"][m]
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_change_has_the_adapters_rank_at_every_time() -> None:
    adapter = Adapter(AdapterConfig(rank=3, size=4), config()).double()
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        pairs = adapter(torch.linspace(0, 1, 50, dtype=torch.float64))
    for name in TARGETS:
        change = pairs[f"{name}_lora_b"] @ pairs[f"{name}_lora_a"]
        assert change.shape[1:] == block_tensors(config())[f"{name}_weight"].shape
        assert (torch.linalg.matrix_rank(change) == 3).all()


def test_size_one_is_the_same_change_at_every_time() -> None:
    adapter = Adapter(AdapterConfig(rank=2, size=1), config())
    torch.nn.init.normal_(adapter.up_lora_b)
    pairs = adapter(torch.rand(5))
    change = pairs["up_lora_b"] @ pairs["up_lora_a"]
    assert torch.equal(change, change[:1].expand_as(change))
    assert change.abs().max() > 0


@pytest.mark.parametrize("targets", [TARGETS, ("down",)])
def test_a_fresh_adapter_changes_nothing(targets: tuple[str, ...]) -> None:
    model = tiny_model().eval()
    with torch.no_grad():
        before = [model(ids(), depth=n).logits for n in (2, 4, 7)]
        adapter = attach_adapter(model, trained=False, rank=2, targets=targets)
        after = [model(ids(), depth=n).logits for n in (2, 4, 7)]
        assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
        torch.nn.init.normal_(getattr(adapter, f"{targets[0]}_lora_b"))
        assert not torch.equal(model(ids()).logits, before[1])


def test_merged_weights_are_the_adapted_model() -> None:
    model = tiny_model().double().eval()
    attach_adapter(model, rank=2, targets=("qkv", "down")).double()
    for solver in ("euler", "rk4", "lie_trotter"):
        model.options = SolveOptions(solver)
        with torch.no_grad():
            weights = model.depth_weights(5)
            merged = merge(weights)
            assert merged.keys() == block_tensors(model.config).keys()
            assert all(merged[name].shape == weights[name].shape for name in merged)
            plain, adapted = (model(ids(), depth=5, weights=w).logits for w in (merged, weights))
            torch.testing.assert_close(plain, adapted, rtol=1e-11, atol=1e-11)
            model.hypernetwork.adapter, adapter = None, model.hypernetwork.adapter
            assert (model(ids(), depth=5).logits - adapted).abs().max() > 1e-3
            model.hypernetwork.adapter = adapter


@pytest.mark.parametrize("tied", [True, False])
def test_an_embeddings_pair_is_a_change_of_the_embedding(tied: bool) -> None:
    model = tiny_model(tie_embeddings=tied).double().eval()
    adapter = attach_adapter(model, rank=3, alpha=6.0, targets=("embedding",)).double()
    assert set(adapter.state_dict()) == {"embedding.lora_a", "embedding.lora_b"}
    with torch.no_grad():
        adapted = [model(ids(), depth=n).logits for n in (3, 8)]
        model.hypernetwork.adapter = None
        assert (model(ids(), depth=3).logits - adapted[0]).abs().max() > 1e-2
        model.embedding.weight += 2.0 * adapter.embedding.lora_b @ adapter.embedding.lora_a
        for depth, found in zip((3, 8), adapted, strict=True):
            torch.testing.assert_close(found, model(ids(), depth=depth).logits, rtol=1e-11, atol=1e-11)


def test_an_embeddings_pair_has_the_embeddings_gradient() -> None:
    """dL/dB = dL/dE Aᵀ and dL/dA = Bᵀ dL/dE, both uses of the tied embedding together."""
    model = tiny_model().double()
    adapter = attach_adapter(model, rank=3, alpha=3.0, targets=("embedding",)).double()
    found = torch.autograd.grad(loss(model), list(adapter.parameters()))
    model.hypernetwork.adapter = None
    a, b = (parameter.detach() for parameter in adapter.parameters())
    with torch.no_grad():
        model.embedding.weight += b @ a
    (of_embedding,) = torch.autograd.grad(loss(model), [model.embedding.weight])
    expected = (b.T @ of_embedding, of_embedding @ a.T)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_merging_without_a_pair_changes_nothing() -> None:
    weights = tiny_model().depth_weights()
    merged = merge(weights)
    assert merged.keys() == weights.keys()
    assert all(merged[name] is weights[name] for name in weights)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
def test_a_frozen_base_gets_no_gradient_and_its_weights_need_none(gradient: str) -> None:
    model = tiny_model()
    model.options = replace(model.options, gradient=gradient)
    model.requires_grad_(False)
    adapter = attach_adapter(model, rank=2)
    weights = model.depth_weights()
    assert {name for name, w in weights.items() if w.requires_grad} == set(dict(adapter.named_parameters()))
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert len(frozen) == len(list(model.named_parameters())) - 8
    loss(model).backward()
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert parameter.grad is None, name
            assert torch.equal(parameter, frozen[name])
        else:
            assert parameter.grad.abs().sum() > 0, name


def backward_flops(model: Odeformer) -> int:
    value = loss(model)
    with FlopCounterMode(display=False) as counter:
        value.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(("gradient", "share"), [("direct", 0.65), ("checkpoint", 0.8)])
def test_a_frozen_base_makes_the_backward_pass_cheaper(gradient: str, share: float) -> None:
    model = tiny_model(width=32, heads=2)
    model.options = replace(model.options, gradient=gradient)
    full = backward_flops(model)
    model.zero_grad()
    model.requires_grad_(False)
    attach_adapter(model, rank=1)
    assert backward_flops(model) < share * full


def test_an_adapter_trained_at_one_depth_works_at_others() -> None:
    model = tiny_model()
    model.requires_grad_(False)
    model.hypernetwork.requires_grad_(False)
    adapter = attach_adapter(model, trained=False, rank=2)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=3e-2)
    tokens = ids()
    targets = torch.full_like(tokens, 7)  # the new task: always say 7

    def task_loss(depth: int) -> torch.Tensor:
        return token_losses(model(tokens, depth=depth).logits, targets).mean()

    with torch.no_grad():
        before = {depth: float(task_loss(depth)) for depth in (2, 3, 4, 6, 8, 16)}
    for _ in range(40):
        optimizer.zero_grad()
        task_loss(4).backward()
        optimizer.step()
    with torch.no_grad():
        gain = {depth: start - float(task_loss(depth)) for depth, start in before.items()}
    assert gain[4] > 1
    assert min(gain.values()) > 0.5 * gain[4], gain


def test_adapter_parameters_are_counted_by_the_formula() -> None:
    shape = config()
    adapter = Adapter(AdapterConfig(rank=3, size=2, targets=("qkv", "up")), shape)
    expected = 2 * 3 * ((16 + 48) + (16 + 64))
    assert sum(p.numel() for p in adapter.parameters()) == expected


def test_adapters_start_value_does_not_grow_with_its_size() -> None:
    """A(t) has entries of mean square 1/in over t in [0, 1] for one cosine, and never more for several."""
    for size in (1, 2, 8):
        adapter = Adapter(AdapterConfig(rank=64, size=size), config(width=64))
        a = adapter((torch.arange(64) + 0.5) / 64)["up_lora_a"]
        mean_square = a.square().mean().item() * 64
        assert 0.45 < mean_square < 1.1


@pytest.mark.parametrize("gradient", ["direct", "checkpoint", "reversible"])
def test_norms_alone_leave_matrices_without_gradient(gradient: str) -> None:
    model = tiny_model()
    model.options = SolveOptions(("damped_leapfrog" if gradient == "reversible" else "euler"), gradient)
    model.requires_grad_(False)
    trained = vectors(model)
    assert {name.rsplit("_", 1)[-1].rsplit(".", 1)[-1] for name in trained} == {"weight", "bias"}
    assert all("norm" in name or name.endswith("bias") for name in trained)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    weights = model.depth_weights()
    assert {name for name, w in weights.items() if w.requires_grad} == {
        name for name, spec in block_tensors(model.config).items() if len(spec.shape) == 1
    }
    loss(model).backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == set(trained)
