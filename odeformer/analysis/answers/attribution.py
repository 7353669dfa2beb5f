"""Attribution of an answer to the tokens of its prompt, by several methods.

Every method takes a :class:`Question` and returns a score for each token, [batch, tokens]; larger scores mean
more influence. ``faithfulness`` measures how well each method does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from odeformer.analysis.flow import Flow, differentiable_attention, flow_of, states
from odeformer.depth import Grid
from odeformer.field import BlockWeights, build_field
from odeformer.field.parts import Heads, attend
from odeformer.hypernetwork import time_tensors
from odeformer.lora import merge
from odeformer.model import Odeformer

INTEGRATION_STEPS = 32


class Question(NamedTuple):
    """Prompts of equal length, the answer to each, and the depth of the solve."""

    model: Odeformer
    input_ids: Tensor
    """[batch, tokens], int64: the prompts, followed by all but the last token of the answers."""
    answer: Tensor
    """Token ids of the answers: [batch] for single tokens, or [batch, n]."""
    depth: int | Grid | None = None

    @property
    def flow(self) -> Flow:
        return flow_of(self.model, self.input_ids.shape[1], self.depth)


def log_probability(question: Question, x: Tensor) -> Tensor:
    """The answer's ln p for initial states x [batch, tokens, width] in place of the prompts' own: [batch]."""
    answer = question.answer.view(len(x), -1, 1)
    return _logits(question, x).log_softmax(-1).gather(2, answer).sum((1, 2))


def answer_logit(question: Question, x: Tensor) -> Tensor:
    """The answer's logit, summed over its tokens, for the same initial states: [batch]."""
    return _logits(question, x).gather(2, question.answer.view(len(x), -1, 1)).sum((1, 2))


def _logits(question: Question, x: Tensor) -> Tensor:
    """[batch, n, vocabulary] for answers of n tokens."""
    length = question.answer.shape[1] if question.answer.ndim == 2 else 1
    return question.model.unembed(question.flow.end(x)[:, -length:])


def neutral_state(model: Odeformer, input_ids: Tensor) -> Tensor:
    """The baseline for an absent token: the mean of all embeddings, [1, tokens, width]."""
    mean = model.adapted_embedding().mean(dim=0)
    positions = 0.0 if model.positions is None else model.positions.weight[: input_ids.shape[1]]
    return (mean + positions).expand(1, input_ids.shape[1], -1).detach()


def _gradient(question: Question, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(answer_logit(question, x).sum(), x)
    return gradient


def sensitivity(question: Question) -> Tensor:
    """Gradient norm ‖∂ logit / ∂ x_k(0)‖, through the whole solve."""
    return _gradient(question, question.model.embed(question.input_ids)).norm(dim=-1)


def gradient_times_input(question: Question) -> Tensor:
    """Gradient times (x_k(0) − neutral state) (Shrikumar et al. 2016, arXiv 1605.01713)."""
    x = question.model.embed(question.input_ids).detach()
    return ((x - neutral_state(question.model, question.input_ids)) * _gradient(question, x)).sum(-1).abs()


def integrated_gradients(question: Question) -> Tensor:
    """Integrated gradients from the neutral state (Sundararajan et al. 2017, arXiv 1703.01365), by captum."""
    from captum.attr import IntegratedGradients

    x = question.model.embed(question.input_ids).detach()
    baseline = neutral_state(question.model, question.input_ids).expand_as(x)

    def logit(points: Tensor) -> Tensor:
        # captum concatenates the points of the path along the batch, so the answers are repeated.
        repeats = len(points) // len(question.answer)
        return answer_logit(question._replace(answer=torch.cat([question.answer] * repeats)), points)

    gradients: Tensor = IntegratedGradients(logit).attribute(x, baseline, n_steps=INTEGRATION_STEPS)
    return gradients.detach().sum(-1).abs()


def attention_rollout(question: Question) -> Tensor:
    """Attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928).

    It is the last token's row of the product over cells of (mean attention over heads + identity) / 2.
    """
    x = question.model.embed(question.input_ids).detach()
    length = x.shape[1]
    field = build_field(question.model.config, x, training=False)
    identity = torch.eye(length).to(x)
    future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
    rollout = identity
    for cell in _cells(question):
        with torch.no_grad():
            query, key, _ = field.heads(cell.before, cell.block)
        scores = query @ key.repeat_interleave(query.shape[1] // key.shape[1], dim=1).mT
        attention = (scores / query.shape[-1] ** 0.5).masked_fill(future, -torch.inf).softmax(-1).mean(1)
        rollout = (attention + identity) / 2 @ rollout
    return rollout[:, -1]


def published_surrogate(question: Question) -> Tensor:
    """The exponent of Tong et al. 2025 as their code computes it.

    For each token k separately, Q_k ← Q_k + h J_k Q_k from Q_k = I, with J_k = ∂ f_last / ∂ x_k at the state
    *after* the cell, followed by a QR decomposition; the score is the largest sum of ln |diag R|.
    Interactions between tokens along the way are ignored.
    """
    config = question.model.config
    (batch, length), width = question.input_ids.shape, config.width
    q = torch.eye(width).to(question.model.embedding.weight).expand(batch, length, width, width)
    logarithms = q.new_zeros(batch, length, width)
    field = build_field(config, q.new_empty(1, length, width), training=False)
    sees_all = torch.ones(1, length, dtype=torch.bool, device=q.device)
    for cell in _cells(question):

        def last(x: Tensor, block: BlockWeights = cell.block) -> Tensor:
            # The field at the last token; the other tokens provide only keys and values.
            query, key, value = field.heads(x[None], block)
            mixed = attend(Heads(query[:, :, -1:], key, value), block, mask=sees_all)
            return (mixed + field.feed_forward(x[None, -1:], block))[0, 0]

        with differentiable_attention(), torch.no_grad():
            jacobian = vmap(jacrev(last))(cell.after).transpose(1, 2)  # [batch, tokens, out, in]
        q, r = torch.linalg.qr(q + cell.scale * jacobian @ q)
        logarithms += r.diagonal(dim1=-2, dim2=-1).abs().log()
    return logarithms.amax(-1)


def random_scores(question: Question) -> Tensor:
    """Random scores, the baseline of every other method."""
    generator = torch.Generator().manual_seed(int(question.input_ids.sum()))
    return torch.rand(question.input_ids.shape, generator=generator)


DEFAULT = "integrated gradients"
"""The method of reports: the best on deletion and insertion curves
(``python -m benchmarks.analysis.faithfulness``, docs/analysis.md). ``sensitivity`` has the better
rank correlation."""

METHODS: dict[str, Callable[[Question], Tensor]] = {
    "sensitivity": sensitivity,
    "gradient × input": gradient_times_input,
    "integrated gradients": integrated_gradients,
    "attention roll-out": attention_rollout,
    "published surrogate": published_surrogate,
    "random": random_scores,
}


class _Cell(NamedTuple):
    """A cell of a solve: h · D, the block at its midpoint, and the states before and after it."""

    scale: float
    block: BlockWeights
    before: Tensor
    after: Tensor


@torch.no_grad()
def _cells(question: Question) -> Iterator[_Cell]:
    flow, model = question.flow, question.model
    midpoints = [edge + width / 2 for edge, width in zip(flow.edges, flow.widths, strict=False)]
    weights = merge(model.hypernetwork(*time_tensors(midpoints, flow.widths, like=model.embedding.weight)))
    visited = pairwise(states(flow.cell_maps, model.embed(question.input_ids)))
    for index, (before, after) in enumerate(visited):
        block = {name: stacked[index] for name, stacked in weights.items()}
        yield _Cell(flow.widths[index] * model.config.depth, block, before, after)
