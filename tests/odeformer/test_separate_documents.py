"""Documents packed into one sequence, none of which may see another."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CONTEXT, VOCABULARY, tiny_model

from data.elastic import documents_of
from odeformer.model import SolveOptions

END = 7


def packed() -> tuple[torch.Tensor, list[slice]]:
    """One sequence of three documents, the last one cut off, and where they lie."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(8, VOCABULARY, (1, CONTEXT), generator=draw)
    ids[0, [4, 10]] = END
    return ids, [slice(0, 5), slice(5, 11), slice(11, CONTEXT)]


def test_an_end_of_text_belongs_to_the_document_that_it_ends() -> None:
    tokens = torch.tensor([[1, END, 2, 3, END, END, 4], [END, 1, 1, 1, 1, 1, 1]])
    assert documents_of(tokens, END).tolist() == [[0, 0, 1, 1, 1, 2, 3], [0, 1, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("flavour", ["neox", "llama"])
@pytest.mark.parametrize("depth", [3, 4])
def test_each_document_is_read_as_if_it_were_alone(flavour: str, depth: int) -> None:
    model = tiny_model(flavour=flavour).eval()
    ids, places = packed()
    together = model(ids, depth=depth, documents=documents_of(ids, END)).logits
    for place in places:  # rotary positions are relative: where a document begins does not matter
        alone = model(ids[:, place], depth=depth).logits
        torch.testing.assert_close(together[:, place], alone, rtol=0, atol=2e-6 * float(alone.abs().max()))
    assert (together - model(ids, depth=depth).logits).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("solver", "gradient"), [("euler", "checkpoint"), ("damped_leapfrog", "reversible"), ("rk4", "adjoint")]
)
def test_every_gradient_method_sees_the_same_documents(solver: str, gradient: str) -> None:
    ids, _ = packed()
    gradients = {}
    for method in ("direct", gradient):
        torch.manual_seed(0)
        model = tiny_model()
        model.options = SolveOptions(solver, method)
        model(ids, depth=12, documents=documents_of(ids, END)).logits.square().mean().backward()
        gradients[method] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    difference = (gradients[gradient] - gradients["direct"]).norm() / gradients["direct"].norm()
    assert difference < (5e-3 if gradient == "adjoint" else 1e-5)


def test_all_one_document_is_plain_causal_attention() -> None:
    model = tiny_model().eval()
    ids, _ = packed()
    documents = torch.zeros_like(ids)
    torch.testing.assert_close(model(ids, documents=documents).logits, model(ids).logits)
