"""Does a method point at the tokens that matter? Take them away, and see what the answer does.

Deletion and insertion curves: Petsiuk et al. 2018 (arXiv 1806.07421).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from odeformer.analysis.answers.attribution import Question, answer_logit, log_probability, neutral_state

POINTS = 10
"""Of a curve, beside its beginning."""


class Faithfulness(NamedTuple):
    """Of one method, for each prompt: [batch]."""

    deletion: Tensor
    """The mean of ln p(answer), less that of the whole prompt, while the tokens that matter most are taken
    away first: the lower, the better."""
    insertion: Tensor
    """The same while they are put back first into a prompt without any: the higher, the better."""
    correlation: Tensor
    """Spearman's, of the scores and of how far the answer's logit moves without each token."""


@torch.no_grad()
def faithfulness(question: Question, scores: Tensor, without: Tensor | None = None) -> Faithfulness:
    """How faithful scores [batch, tokens] are.

    Tokens are taken away by putting the mean embedding in their place; the last one, from which the answer is
    read, stays.

    Args:
        without: what :func:`leave_one_out` gave, where it is known.
    """
    without = leave_one_out(question) if without is None else without
    x = question.model.embed(question.input_ids)
    neutral = neutral_state(question.model, question.input_ids).expand_as(x)
    order = scores[:, :-1].to(x).argsort(dim=-1, descending=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    rank = torch.cat([rank, torch.full_like(rank[:, :1], order.shape[1])], dim=1)
    whole = log_probability(question, x)
    deleted, inserted = [], []
    for point in range(1, POINTS + 1):
        chosen = (rank < round(point * order.shape[1] / POINTS))[..., None]
        is_last = rank[..., None] == order.shape[1]
        deleted.append(log_probability(question, torch.where(chosen, neutral, x)) - whole)
        inserted.append(log_probability(question, torch.where(chosen | is_last, x, neutral)) - whole)
    return Faithfulness(
        torch.stack(deleted).mean(0),
        torch.stack(inserted).mean(0),
        spearman(scores[:, :-1], without[:, :-1]),
    )


@torch.no_grad()
def leave_one_out(question: Question) -> Tensor:
    """|change of the answer's logit| without each token: [batch, tokens]; of the last one 0."""
    x = question.model.embed(question.input_ids)
    neutral = neutral_state(question.model, question.input_ids)
    whole, changes = answer_logit(question, x), []
    for position in range(x.shape[1] - 1):
        changed = x.clone()
        changed[:, position] = neutral[:, position]
        changes.append((answer_logit(question, changed) - whole).abs())
    return torch.stack([*changes, torch.zeros_like(whole)], dim=1)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation along the last dimension, [..., n] → [...]; equal values in any order."""
    ranks = [values.argsort(-1).argsort(-1).double() for values in (a, b)]
    first, second = (rank - rank.mean(-1, keepdim=True) for rank in ranks)
    return (first * second).sum(-1) / (first.square().sum(-1) * second.square().sum(-1)).sqrt()


def compare(question: Question, methods: dict[str, Callable[[Question], Tensor]]) -> dict[str, Faithfulness]:
    """Every method on the same prompts."""
    without = leave_one_out(question)
    return {name: faithfulness(question, method(question), without) for name, method in methods.items()}
