"""Matrices of 8-bit numbers, and a model that is read with them."""

from typing import Any

import pytest
import torch
from tiny_models import CONTEXT, attach_adapter, ids, tiny_model
from torch.nn import functional as F

from odeformer.inference.decoding import Decoder, FixedDepthModel
from odeformer.inference.int8 import Int8Matrix
from odeformer.model import SolveOptions

FLAVOURS: list[tuple[str, dict[str, Any]]] = [
    ("neox", {}),
    ("neox", {"tie_embeddings": False}),
    ("llama", {"rotary_fraction": None, "heads": 4, "key_value_heads": 2}),
    ("paper", {"rotary_fraction": None}),
]


def test_whole_numbers_are_multiplied_exactly() -> None:
    numbers = torch.randint(-127, 128, (5, 32)).float()
    numbers[:, 0] = 127
    scales = torch.tensor([1e-3, 0.5, 1.0, 2.0, 300.0])
    x = torch.randint(-127, 128, (2, 3, 32)).float()
    x[..., 5] = -127
    bias = torch.randn(5)
    seen = F.linear(x, Int8Matrix(numbers * scales[:, None]), bias)  # type: ignore[arg-type]
    torch.testing.assert_close(seen, F.linear(x, numbers) * scales + bias)


def test_rounding_costs_a_hundredth_and_rows_of_zeros_nothing() -> None:
    matrix, x = torch.randn(300, 200), torch.randn(7, 200)
    matrix[3], x[2] = 0, 0
    seen, expected = F.linear(x, Int8Matrix(matrix)), F.linear(x, matrix)  # type: ignore[arg-type]
    assert 1e-3 < float((seen - expected).norm() / expected.norm()) < 1.5e-2
    assert not seen[2].any()
    assert not seen[:, 3].any()
    rows = F.embedding(torch.tensor([[4, 3]]), Int8Matrix(matrix))  # type: ignore[arg-type]
    assert rows.shape == (1, 2, 200)
    assert float((rows[0, 0] - matrix[4]).abs().max()) <= float(matrix[4].abs().max()) / 254 * 1.001
    assert Int8Matrix(matrix).nbytes == 300 * 200 + 4 * 300


def test_a_token_does_not_depend_on_what_is_beside_it() -> None:
    matrix, x = Int8Matrix(torch.randn(40, 24)), torch.randn(6, 24)
    x[1] *= 1000
    whole = F.linear(x, matrix)  # type: ignore[arg-type]
    alone = [F.linear(row[None], matrix) for row in x]  # type: ignore[arg-type]
    assert torch.equal(whole, torch.cat(alone))


def test_only_what_it_is_for_takes_it() -> None:
    with pytest.raises(TypeError):
        torch.mm(torch.randn(2, 24), Int8Matrix(torch.randn(40, 24)))  # type: ignore[arg-type]


@torch.inference_mode()
@pytest.mark.parametrize(("flavour", "changes"), FLAVOURS)
def test_a_model_is_read_with_a_quarter_of_the_bytes(flavour: str, changes: dict[str, Any]) -> None:
    model = tiny_model(flavour=flavour, **changes).eval()
    model.options = SolveOptions("euler" if flavour == "neox" else "lie_trotter")
    attach_adapter(model, rank=2, alpha=2, targets=("qkv", "up", "down", "embedding"))
    at, whole = FixedDepthModel(model, 6, int8=True), FixedDepthModel(model, 6)
    tokens = ids(batch=3, length=CONTEXT)
    expected = model(tokens, depth=6).logits
    reader = Decoder(at, 3, CONTEXT)
    seen = torch.cat([reader.read(part) for part in tokens.split([5, 1, 1, 9], dim=1)], dim=1)
    assert 1e-4 < float((seen - expected).norm() / expected.norm()) < 0.1
    assert (at.unembedding is at.embedding) == model.config.tie_embeddings
    matrices = [w for cell in at.stretches[1].weights for node in cell for w in node.values()]
    assert sum(isinstance(w, Int8Matrix) for w in matrices) >= 4 * 5
    full = [w for cell in whole.stretches[1].weights for node in cell for w in node.values()]
    # Of rows this short the scales are another quarter.
    assert sum(w.nbytes for w in matrices) < 0.6 * sum(w.nbytes for w in full)


def test_an_accelerator_is_refused() -> None:
    model = tiny_model().to("meta")
    with pytest.raises(ValueError, match="int8 is for a CPU, not meta"):
        FixedDepthModel(model, 4, int8=True)
