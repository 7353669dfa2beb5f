"""Depth by difficulty: a shallow solve for every sequence, and a deep one for the hard ones."""

from __future__ import annotations

import torch
from torch import Tensor

from odeformer.model import Odeformer, Output


def entropy(logits: Tensor) -> Tensor:
    """Mean entropy of a sequence's predictions, in nats: [batch, tokens, vocabulary] → [batch]."""
    log_probabilities = logits.float().log_softmax(dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1).mean(dim=-1)


@torch.no_grad()
def solve_by_difficulty(
    model: Odeformer, input_ids: Tensor, *, shallow: int, deep: int, threshold: float
) -> Output:
    """Predictions at depth ``shallow``, but at ``deep`` for sequences whose shallow ones have high entropy.

    Args:
        model: the model.
        input_ids: token ids [batch, tokens].
        shallow: the depth at which every sequence is run.
        deep: the depth at which hard sequences are run again.
        threshold: the mean entropy in nats above which a sequence is hard. The q-quantile of :func:`entropy`
            on held-out sequences makes a fraction 1 − q of them hard.

    Returns:
        The logits; the evaluations of a hard sequence include its discarded shallow solve.

    Raises:
        ValueError: unless ``shallow`` is less than ``deep``.
    """
    if not shallow < deep:
        raise ValueError(f"shallow {shallow} must be less than deep {deep}")
    logits, evaluations = model(input_ids, depth=shallow)
    hard = entropy(logits) > threshold
    if not hard.any():
        return Output(logits, evaluations)
    again = model(input_ids[hard], depth=deep)
    logits[hard] = again.logits
    total = torch.tensor(evaluations)
    total[hard.cpu()] += torch.tensor(again.evaluations)
    return Output(logits, tuple(total.tolist()))
