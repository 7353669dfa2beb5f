"""Reading token by token against the whole forward pass."""

from typing import Any

import pytest
import torch
from tiny_models import CONTEXT, attach_adapter, config, ids, tiny_model

from odeformer.field.parts import rotary_table
from odeformer.inference.decoding import Decoder, FixedDepthModel
from odeformer.model import Odeformer, SolveOptions

FLAVOURS: list[tuple[str, dict[str, Any]]] = [
    ("neox", {}),
    ("neox", {"tie_embeddings": False, "prelude": 0}),
    ("llama", {"rotary_fraction": None, "heads": 4, "key_value_heads": 2}),
    ("paper", {"rotary_fraction": None}),
]


def make(flavour: str, changes: dict[str, Any], solver: str) -> Odeformer:
    model = tiny_model(flavour=flavour, **changes).eval()
    model.options = SolveOptions(solver)
    return model


def worst(seen: torch.Tensor, expected: torch.Tensor) -> float:
    return float((seen - expected).abs().max() / expected.std())


@torch.inference_mode()
@pytest.mark.parametrize("solver", ["euler", "lie_trotter", "rk4", "damped_leapfrog"])
@pytest.mark.parametrize(("flavour", "changes"), FLAVOURS)
def test_what_was_read_is_remembered(flavour: str, changes: dict[str, Any], solver: str) -> None:
    model = make(flavour, changes, solver)
    attach_adapter(model, rank=2, alpha=2, targets=("qkv", "up", "down", "embedding"))
    tokens = ids(batch=3, length=CONTEXT)
    for depth in (3, 4, 6):
        expected = model(tokens, depth=depth).logits
        reader = Decoder(FixedDepthModel(model, depth), 3, CONTEXT)
        parts = [reader.read(part) for part in tokens.split([5, 1, 1, 4, 1, 4], dim=1)]
        assert worst(torch.cat(parts, dim=1), expected) < 5e-5
        # What was read is taken back, something else is read, and taken back again.
        reader.length = 6
        reader.read(ids(batch=3, length=7, seed=9))
        reader.length = 6
        again = reader.read(tokens[:, 6:], last_only=True)
        assert again.shape[1] == 1
        assert worst(again[:, 0], expected[:, -1]) < 5e-5


@torch.inference_mode()
@pytest.mark.parametrize(("flavour", "changes"), FLAVOURS)
def test_padding_changes_nothing(flavour: str, changes: dict[str, Any]) -> None:
    model = make(flavour, changes, "euler" if flavour != "llama" else "lie_trotter")
    tokens, padding = ids(batch=3, length=CONTEXT), torch.tensor([0, 3, 7])
    expected = model(tokens, depth=5).logits
    padded = torch.zeros_like(tokens)
    for row, missing in enumerate(padding.tolist()):
        padded[row, missing:] = tokens[row, : CONTEXT - missing]
    reader = Decoder(FixedDepthModel(model, 5), 3, CONTEXT, padding)
    logits = torch.cat([reader.read(part) for part in padded.split([8, 1, 3, 4], dim=1)], dim=1)
    for row, missing in enumerate(padding.tolist()):
        assert worst(logits[row, missing:], expected[row, : CONTEXT - missing]) < 5e-5
    assert logits.isfinite().all()


@torch.inference_mode()
def test_weights_are_made_once_and_in_the_dtype_asked_for() -> None:
    model = tiny_model().eval()
    at = FixedDepthModel(model, 5, torch.bfloat16)
    before = Decoder(at, 1, CONTEXT).read(ids(batch=1))
    assert before.dtype == torch.bfloat16
    assert worst(before.float(), model(ids(batch=1), depth=5).logits) < 0.1
    for parameter in model.parameters():
        parameter.zero_()
    assert torch.equal(Decoder(at, 1, CONTEXT).read(ids(batch=1)), before)


def test_what_has_no_such_depth_is_refused() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="depth 1 is too small"):
        FixedDepthModel(model, 1)


def test_positions_stay_apart_in_bf16() -> None:
    table = rotary_table(config(), 1200, torch.zeros((), dtype=torch.bfloat16))
    exact = rotary_table(config(), 1200, torch.zeros(()))
    for seen, expected in zip(table, exact, strict=True):
        assert seen.dtype == torch.bfloat16
        torch.testing.assert_close(seen.float(), expected, rtol=0, atol=4e-3)


def test_a_state_that_is_not_finite_is_named() -> None:
    model = tiny_model().eval()
    with torch.no_grad():
        model.hypernetwork.down_weight.fill_(float("inf"))  # type: ignore[operator]
    with pytest.raises(FloatingPointError, match="depth 6 is not finite"), torch.inference_mode():
        Decoder(FixedDepthModel(model, 6), 1, CONTEXT).read(ids(batch=1))
