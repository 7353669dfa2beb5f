"""Which tokens of a prompt an answer leans on: our sensitivity, and what others use for that.

Every method takes a :class:`Question` and gives a score for every token, [batch, tokens]: the larger, the
more it matters. Which of them tells the truth is measured, not assumed: see ``faithfulness``.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """Prompts of one length, the answer to each, and the solve that is asked for it."""

    model: Odeformer
    input_ids: Tensor
    """[batch, tokens], int64: the prompts, and of longer answers all tokens but the last."""
    answer: Tensor
    """The ids of the token that follows each, [batch], or of several tokens, [batch, n]."""
    depth: int | Grid | None = None

    @property
    def flow(self) -> Flow:
        return flow_of(self.model, self.input_ids.shape[1], self.depth)


def log_probability(question: Question, x: Tensor) -> Tensor:
    """ln p(answer) for states x [batch, tokens, width] at t = 0, in place of the prompts' own: [batch]."""
    return _of_answer(question, _logits(question, x).log_softmax(-1))


def answer_logit(question: Question, x: Tensor) -> Tensor:
    """The answer's logit, of longer ones their tokens' sum, for the same: [batch]."""
    return _of_answer(question, _logits(question, x))


def _logits(question: Question, x: Tensor) -> Tensor:
    """[batch, n, vocabulary], n the length of the answers."""
    length = question.answer.shape[1] if question.answer.ndim == 2 else 1
    return question.model.unembed(question.flow.end(x)[:, -length:])


def _of_answer(question: Question, values: Tensor) -> Tensor:
    answer = question.answer.view(len(values), -1, 1)
    return values.gather(2, answer).sum((1, 2))


def neutral_state(model: Odeformer, input_ids: Tensor) -> Tensor:
    """What stands for "no token here": the mean of all tokens' embeddings, [1, tokens, width]."""
    mean = model.adapted_embedding().mean(dim=0)
    positions = 0.0 if model.positions is None else model.positions.weight[: input_ids.shape[1]]
    return (mean + positions).expand(1, input_ids.shape[1], -1).detach()


def _gradient(question: Question, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(answer_logit(question, x).sum(), x)
    return gradient


def sensitivity(question: Question) -> Tensor:
    """‖∂ logit / ∂ x_k(0)‖, through the whole solve and all tokens."""
    return _gradient(question, question.model.embed(question.input_ids)).norm(dim=-1)


def gradient_times_input(question: Question) -> Tensor:
    """x_k(0) − neutral state, times the logit's gradient (Shrikumar et al. 2016, arXiv 1605.01713)."""
    x = question.model.embed(question.input_ids).detach()
    return ((x - neutral_state(question.model, question.input_ids)) * _gradient(question, x)).sum(-1).abs()


def integrated_gradients(question: Question) -> Tensor:
    """The gradient along the line from the neutral state, times its length (Sundararajan et al. 2017, arXiv
    1703.01365), by captum."""
    from captum.attr import IntegratedGradients

    x = question.model.embed(question.input_ids).detach()
    baseline = neutral_state(question.model, question.input_ids).expand_as(x)

    def logit(points: Tensor) -> Tensor:
        # captum puts the points of the line behind one another: every answer is needed for each.
        repeats = len(points) // len(question.answer)
        return answer_logit(question._replace(answer=torch.cat([question.answer] * repeats)), points)

    found: Tensor = IntegratedGradients(logit).attribute(x, baseline, n_steps=INTEGRATION_STEPS)
    return found.detach().sum(-1).abs()


def attention_rollout(question: Question) -> Tensor:
    """Attention, the mean over heads, half of it the residual, multiplied from cell to cell (Abnar and
    Zuidema 2020, arXiv 2005.00928): the last token's row."""
    mixed = None
    for _, query, key, _ in _cells(question):
        scores = query @ key.repeat_interleave(query.shape[1] // key.shape[1], dim=1).mT
        length = scores.shape[-1]
        hidden = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
        attention = (scores / query.shape[-1] ** 0.5).masked_fill(hidden, -torch.inf).softmax(-1).mean(1)
        step = (attention + torch.eye(length, dtype=scores.dtype, device=scores.device)) / 2
        mixed = step if mixed is None else step @ mixed
    assert mixed is not None
    return mixed[:, -1]


def published_surrogate(question: Question) -> Tensor:
    """The exponent of Tong et al. 2025 as their code computes it.

    For each token k by itself Q_k ← Q_k + h J_k Q_k from Q_k = I, J_k = ∂ f_last / ∂ x_k at the state
    *behind* the cell, then a QR decomposition; the largest sum of ln |diag R|. Tokens do not act on one
    another on the way.
    """
    config, length = question.model.config, question.input_ids.shape[1]
    batch, width = len(question.input_ids), config.width
    q = torch.eye(width).to(question.model.embedding.weight).expand(batch, length, width, width)
    logarithms = q.new_zeros(batch, length, width)
    field = build_field(config, q.new_empty(1, length, width), training=False)
    sees_all = torch.ones(1, length, dtype=torch.bool, device=q.device)
    for scale, block, after in _behind_cells(question):

        def last(x: Tensor, block: BlockWeights = block) -> Tensor:
            # The field at the last token alone: the others are only its keys and values.
            query, key, value = field.heads(x[None], block)
            mixed = attend(Heads(query[:, :, -1:], key, value), block, mask=sees_all)
            return (mixed + field.feed_forward(x[None, -1:], block))[0, 0]

        with differentiable_attention(), torch.no_grad():
            jacobian = vmap(jacrev(last))(after).transpose(1, 2)  # [batch, tokens, out, in]
        q, r = torch.linalg.qr(q + scale * jacobian @ q)
        logarithms += r.diagonal(dim1=-2, dim2=-1).abs().log()
    return logarithms.amax(-1)


def random_scores(question: Question) -> Tensor:
    """No method at all: what every other one has to beat."""
    generator = torch.Generator().manual_seed(int(question.input_ids.sum()))
    return torch.rand(question.input_ids.shape, generator=generator)


DEFAULT = "integrated gradients"
"""The picture that is shown: best of all on both curves, deletion and insertion
(``python -m benchmarks.analysis.faithfulness``, docs/analysis.md). ``sensitivity`` has the better rank
correlation."""

METHODS: dict[str, Callable[[Question], Tensor]] = {
    "sensitivity": sensitivity,
    "gradient × input": gradient_times_input,
    "integrated gradients": integrated_gradients,
    "attention roll-out": attention_rollout,
    "published surrogate": published_surrogate,
    "random": random_scores,
}


@torch.no_grad()
def _cells(question: Question) -> list[tuple[float, Tensor, Tensor, Tensor]]:
    """Of every cell its scale h · D, and the queries, keys and values at its beginning."""
    model = question.model
    visited = list(states(question.flow.cell_maps, model.embed(question.input_ids)))
    field = build_field(model.config, visited[0], training=False)
    blocks, scales = _blocks(question)
    return [(s, *field.heads(x, block)) for s, x, block in zip(scales, visited, blocks, strict=False)]


@torch.no_grad()
def _behind_cells(question: Question) -> list[tuple[float, BlockWeights, Tensor]]:
    """Of every cell its scale, its weights, and the state behind it."""
    visited = list(states(question.flow.cell_maps, question.model.embed(question.input_ids)))
    blocks, scales = _blocks(question)
    return list(zip(scales, blocks, visited[1:], strict=True))


def _blocks(question: Question) -> tuple[list[BlockWeights], list[float]]:
    """W at the midpoint of every cell, and the cells' scales h · D."""
    flow, model = question.flow, question.model
    middles = [edge + width / 2 for edge, width in zip(flow.edges, flow.widths, strict=False)]
    weights = merge(model.hypernetwork(*time_tensors(middles, flow.widths, like=model.embedding.weight)))
    blocks = [{name: stacked[i] for name, stacked in weights.items()} for i in range(len(middles))]
    return blocks, [width * model.config.depth for width in flow.widths]
