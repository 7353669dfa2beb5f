"""Sensitivities against brute-force Jacobians."""

from __future__ import annotations

import pytest
import torch
from tiny_models import attach_adapter, ids, tiny_model
from torch import Tensor

from odeformer.analysis.answers.attribution import Question, sensitivity
from odeformer.analysis.dynamics.sensitivity import pair_sensitivity
from odeformer.analysis.flow import flow_of


@pytest.mark.parametrize("flavour", ["neox", "llama", "paper"])
def test_pairs_are_the_blocks_of_the_whole_jacobian(flavour: str) -> None:
    model = tiny_model(flavour=flavour, rotary_fraction=None).eval()
    attach_adapter(model)
    prompt = ids(batch=1, length=6)
    x = model.embed(prompt).detach()
    jacobian = torch.autograd.functional.jacobian(flow_of(model, 6, 5).end, x)[0, :, :, 0]
    expected = jacobian.permute(0, 2, 1, 3).flatten(2).norm(dim=-1)  # [outputs, inputs]
    found = pair_sensitivity(model, prompt, depth=5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert found.triu(1).abs().max() == 0, "no token sees those that follow"
    assert torch.equal(pair_sensitivity(model, prompt, outputs=[2, 5], depth=5), found[[2, 5]])


def test_random_probes_estimate_them() -> None:
    model = tiny_model().eval()
    prompt = ids(batch=1, length=6)
    exact = pair_sensitivity(model, prompt, outputs=[5])
    estimated = pair_sensitivity(model, prompt, outputs=[5], probes=400)
    torch.testing.assert_close(estimated, exact, rtol=0.15, atol=0)


def test_what_comes_behind_an_output_does_not_matter() -> None:
    model = tiny_model().eval()
    prompt = ids(batch=1, length=9)
    found = pair_sensitivity(model, prompt, outputs=[3], probes=2)
    assert torch.equal(found[:, :4], pair_sensitivity(model, prompt[:, :4], outputs=[3], probes=2))
    assert found.shape == (1, 9)
    assert found[0, 4:].abs().max() == 0


def test_the_answer_moves_by_finite_differences() -> None:
    model = tiny_model().double().eval()
    prompt, answer = ids(length=7), torch.tensor([3, 8])
    found = sensitivity(Question(model, prompt, answer, 4))
    x, small = model.embed(prompt).detach(), 1e-6

    def logit(state: Tensor) -> Tensor:
        end = model.final_norm(flow_of(model, 7, 4).end(state)[:, -1])
        return (end @ model.embedding.weight.T).gather(1, answer[:, None])[:, 0]

    for token in (0, 6):
        gradient = torch.zeros(2, model.config.width, dtype=torch.float64)
        for dimension in range(model.config.width):
            up, down = x.clone(), x.clone()
            up[:, token, dimension] += small
            down[:, token, dimension] -= small
            with torch.no_grad():
                gradient[:, dimension] = (logit(up) - logit(down)) / (2 * small)
        torch.testing.assert_close(found[:, token], gradient.norm(dim=-1), rtol=1e-5, atol=0)


def test_nothing_of_the_model_changes() -> None:
    model = tiny_model().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sensitivity(Question(model, ids(), torch.tensor([1, 2])))
    pair_sensitivity(model, ids(batch=1), probes=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
