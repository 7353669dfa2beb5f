"""Explanation of an answer: its confidence, and the prompt tokens that it depends on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from odeformer.analysis.answers.attribution import DEFAULT, METHODS, Question
from odeformer.model import Odeformer, token_losses


class Explanation(NamedTuple):
    """The explanation of one answer to one prompt."""

    method: str
    """A method of :data:`odeformer.analysis.answers.attribution.METHODS`."""
    first: int
    """The first prompt token that fits the context; earlier tokens were dropped."""
    shares: list[float]
    """The share of each prompt token from ``first`` on in the attribution; they sum to 1."""
    probabilities: list[float]
    """The model's probability of each answer token, given the tokens before it."""

    @property
    def confidence(self) -> float:
        """Geometric mean of the answer's probabilities."""
        return math.exp(sum(map(math.log, self.probabilities)) / len(self.probabilities))

    def strongest(self, count: int) -> list[tuple[int, float]]:
        """Positions and shares of the prompt tokens with the largest shares."""
        order = sorted(range(len(self.shares)), key=lambda k: -self.shares[k])[:count]
        return [(self.first + k, self.shares[k]) for k in order]


def explain(
    model: Odeformer, prompt: Sequence[int], answer: Sequence[int], depth: int | None = None
) -> Explanation:
    """Explain the token ids of an answer.

    As in generation, a prompt that exceeds the context loses its beginning. Only as many answer tokens are
    explained as fit the context after one prompt token.

    Raises:
        ValueError: If the prompt or the answer is empty.
    """
    if not prompt or not answer:
        raise ValueError("an explanation needs a prompt and an answer of at least one token each")
    context = model.config.context_length or len(prompt) + len(answer)
    answer = list(answer)[:context]
    first = max(0, len(prompt) + len(answer) - 1 - context)
    kept = list(prompt)[first:]
    ids, answer_ids = torch.tensor([[*kept, *answer[:-1]]]), torch.tensor([answer])
    question = Question(model, ids, answer_ids, depth)
    with torch.no_grad():
        x = question.flow.end(model.embed(ids))[:, -len(answer) :]
        losses = token_losses(model.unembed(x), answer_ids)[0]

    scores = METHODS[DEFAULT](question)[0, : len(kept)].double()
    total = float(scores.sum())
    shares = (scores / total).tolist() if total else [1 / len(kept)] * len(kept)
    return Explanation(DEFAULT, first, shares, losses.neg().exp().tolist())
