"""Evaluation of a model on a task: loss of the completions, and accuracy over the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from data.tasks.example import Example
from data.tasks.examples import TaskSets
from data.tasks.stream import encode
from odeformer.model import token_losses

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def scores(
    engine: Any,
    sets: TaskSets,
    tokenizer: Tokenizer,
    sequence_length: int,
    batch: int,
    depth: int | None = None,
) -> dict[str, float]:
    """The metrics of a task on its validation set, for a model run at depth N.

    Returns:
        ``loss``, the mean in nats per token of the completions, or of whole texts; for a classification also
        ``accuracy``, the fraction of the examples whose own label is the likeliest of all labels.
    """
    if not sets.labels:
        total, count = completion_losses(engine, sets.validation, tokenizer, sequence_length, batch, depth)
        return {"loss": float(total.sum() / count.sum())}

    total, count, right = label_losses(engine, sets, tokenizer, sequence_length, batch, depth)
    own = right[:, None]
    return {
        "loss": float(total.gather(1, own).sum() / count.gather(1, own).sum()),
        "accuracy": float((total.argmin(dim=1) == right).double().mean()),
    }


def label_losses(
    engine: Any,
    sets: TaskSets,
    tokenizer: Tokenizer,
    sequence_length: int,
    batch: int,
    depth: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of every label as the completion of every validation prompt.

    Returns:
        Summed loss in nats and number of tokens, both float64 [examples, labels]; index of the right label,
        [examples].
    """
    prompted = [Example(e.prompt, label) for e in sets.validation for label in sets.labels]
    total, count = completion_losses(engine, prompted, tokenizer, sequence_length, batch, depth)
    right = torch.tensor([sets.labels.index(e.completion) for e in sets.validation])
    return total.view(-1, len(sets.labels)), count.view(-1, len(sets.labels)), right


@torch.no_grad()
def completion_losses(
    engine: Any,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    sequence_length: int,
    batch: int,
    depth: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Summed loss in nats and number of tokens of each completion, both float64 [windows].

    There is one window per example, except for whole texts, which may take several.
    """
    engine.eval()
    device = next(engine.parameters()).device
    encoded = [window for example in examples for window in encode(example, tokenizer, sequence_length)]
    totals, counts = torch.zeros(2, len(encoded), dtype=torch.float64)
    # Windows of similar length share a batch, to keep padding small.
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
        tokens = tokens.to(device)
        losses = token_losses(engine(tokens[:, :-1], depth=depth).logits, tokens[:, 1:]).cpu().double()
        totals[chosen] = (losses * mask).sum(dim=1)
        counts[chosen] = mask.sum(dim=1).double()
    return totals, counts
