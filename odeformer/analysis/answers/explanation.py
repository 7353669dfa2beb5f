"""Why this answer: the prompt's tokens that it leans on, and how sure the model is of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from odeformer.analysis.answers.attribution import DEFAULT, METHODS, Question
from odeformer.model import Odeformer, token_losses


class Explanation(NamedTuple):
    """Of one answer to one prompt."""

    method: str
    """Of :data:`odeformer.analysis.answers.attribution.METHODS`."""
    first: int
    """Of the prompt's tokens those from here on were seen: the rest did not fit the context."""
    shares: list[float]
    """How much the answer leans on each of them: parts of 1, all together."""
    probabilities: list[float]
    """Of each of the answer's tokens, given those before it, as the model itself gives them."""

    @property
    def confidence(self) -> float:
        """The geometric mean of the answer's probabilities."""
        return math.exp(sum(map(math.log, self.probabilities)) / len(self.probabilities))

    def strongest(self, count: int) -> list[tuple[int, float]]:
        """The prompt's tokens that the answer leans on most: their positions and shares."""
        order = sorted(range(len(self.shares)), key=lambda k: -self.shares[k])[:count]
        return [(self.first + k, self.shares[k]) for k in order]


def explain(
    model: Odeformer, prompt: Sequence[int], answer: Sequence[int], depth: int | None = None
) -> Explanation:
    """Explain token ids that the model has written.

    A prompt too long for the context loses its beginning, as in writing; of a longer answer only the first
    tokens that fit behind one token of the prompt are explained.

    Raises:
        ValueError: for an empty prompt or answer.
    """
    if not prompt or not answer:
        raise ValueError("an explanation needs a prompt and an answer of at least one token each")
    context = model.config.context_length or len(prompt) + len(answer)
    answer = list(answer)[:context]
    first = max(0, len(prompt) + len(answer) - 1 - context)
    kept = list(prompt)[first:]
    ids, following = torch.tensor([[*kept, *answer[:-1]]]), torch.tensor([answer])
    question = Question(model, ids, following, depth)
    scores = METHODS[DEFAULT](question)[0, : len(kept)].double()
    with torch.no_grad():
        x = question.flow.end(model.embed(ids))[:, -len(answer) :]
        losses = token_losses(model.unembed(x), following)[0]
    total = float(scores.sum())
    shares = (scores / total).tolist() if total else [1 / len(kept)] * len(kept)
    return Explanation(DEFAULT, first, shares, losses.neg().exp().tolist())
