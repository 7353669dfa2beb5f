"""How well a model does a task: loss on the completions, or accuracy over the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from data.tasks.examples import Example, TaskSets
from data.tasks.stream import encode
from odeformer.model import token_losses

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def score(engine: Any, sets: TaskSets, tokenizer: Tokenizer, sequence_length: int, batch: int) -> float:
    """The task's metric on its validation set.

    Returns:
        For completions and whole texts the mean loss in nats per token of theirs; for a classification the
        part of the examples whose own label is the most likely completion among all labels.
    """
    if not sets.labels:
        total, count = completion_losses(engine, sets.validation, tokenizer, sequence_length, batch)
        return float(total.sum() / count.sum())
    asked = [Example(e.prompt, label) for e in sets.validation for label in sets.labels]
    total, _ = completion_losses(engine, asked, tokenizer, sequence_length, batch)
    chosen = total.view(-1, len(sets.labels)).argmin(dim=1)
    right = torch.tensor([sets.labels.index(e.completion) for e in sets.validation])
    return float((chosen == right).double().mean())


@torch.no_grad()
def completion_losses(
    engine: Any, examples: Sequence[Example], tokenizer: Tokenizer, sequence_length: int, batch: int
) -> tuple[Tensor, Tensor]:
    """Each completion's summed loss in nats, and its number of tokens: both float64 [n].

    n is the number of windows: of the examples, unless these are whole texts.
    """
    engine.eval()
    encoded = [window for example in examples for window in encode(example, tokenizer, sequence_length)]
    totals, counts = (
        torch.zeros(len(encoded), dtype=torch.float64),
        torch.zeros(len(encoded), dtype=torch.float64),
    )
    # Similar lengths share a batch, so that little of it is padding.
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i][0]))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        longest = max(len(encoded[i][0]) for i in chosen)
        tokens = torch.zeros(len(chosen), longest, dtype=torch.long)
        mask = torch.zeros(len(chosen), longest - 1, dtype=torch.bool)
        for row, i in enumerate(chosen):
            ids, counted = encoded[i]
            tokens[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(counted)] = torch.tensor(counted)
        tokens = tokens.to(engine.device)
        losses = token_losses(engine(tokens[:, :-1]).logits, tokens[:, 1:]).cpu().double()
        totals[chosen] = (losses * mask).sum(dim=1)
        counts[chosen] = mask.sum(dim=1).double()
    return totals, counts
