"""Faithfulness of attributions: the answer's change when the highest-scored tokens are removed or inserted.

Deletion and insertion curves: Petsiuk et al. 2018 (arXiv 1806.07421).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from odeformer.analysis.answers.attribution import Question, answer_logit, log_probability, neutral_state

POINTS = 10
"""The number of points of a curve, without its start."""


class Faithfulness(NamedTuple):
    """The faithfulness of one method for each prompt: [batch]."""

    deletion: Tensor
    """Mean of ln p(answer) minus that of the whole prompt while tokens are removed, highest score first;
    lower is better."""
    insertion: Tensor
    """The same mean while tokens are inserted into an empty prompt, highest score first; higher is better."""
    correlation: Tensor
    """Spearman correlation of the scores with the logit's change when each token is left out."""


@torch.no_grad()
def faithfulness(question: Question, scores: Tensor, without: Tensor | None = None) -> Faithfulness:
    """Faithfulness of scores [batch, tokens].

    Removed tokens are replaced by the mean embedding. The last token always stays, as the answer is read
    there.

    Args:
        without: The result of :func:`leave_one_out`, if already known.
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
    """|change of the answer's logit| without each token: [batch, tokens]; 0 for the last token."""
    x = question.model.embed(question.input_ids)
    neutral = neutral_state(question.model, question.input_ids)
    whole, changes = answer_logit(question, x), []
    for position in range(x.shape[1] - 1):
        changed = x.clone()
        changed[:, position] = neutral[:, position]
        changes.append((answer_logit(question, changed) - whole).abs())
    return torch.stack([*changes, torch.zeros_like(whole)], dim=1)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation along the last dimension, [..., n] → [...]; ties are broken arbitrarily."""
    ranks = [values.argsort(-1).argsort(-1).double() for values in (a, b)]
    first, second = (rank - rank.mean(-1, keepdim=True) for rank in ranks)
    return (first * second).sum(-1) / (first.square().sum(-1) * second.square().sum(-1)).sqrt()
