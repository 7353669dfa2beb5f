"""How well a model does a task: loss on the completions, and accuracy over the labels."""

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
    """The metrics of a task on its validation set, of a model run at depth N.

    Returns:
        ``loss``: the mean in nats per token of the completions, or of whole texts. Of a classification also
        ``accuracy``: the part of the examples whose own label is the likeliest completion of all labels.
    """
    asked = sets.validation
    if sets.labels:
        asked = [Example(e.prompt, label) for e in sets.validation for label in sets.labels]
    total, count = completion_losses(engine, asked, tokenizer, sequence_length, batch, depth)
    if not sets.labels:
        return {"loss": float(total.sum() / count.sum())}
    right = torch.tensor([sets.labels.index(e.completion) for e in sets.validation])
    total, count = (values.view(-1, len(sets.labels)) for values in (total, count))
    own = right[:, None]
    return {
        "loss": float(total.gather(1, own).sum() / count.gather(1, own).sum()),
        "accuracy": float((total.argmin(dim=1) == right).double().mean()),
    }


@torch.no_grad()
def completion_losses(
    engine: Any,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    sequence_length: int,
    batch: int,
    depth: int | None = None,
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
        losses = token_losses(engine(tokens[:, :-1], depth=depth).logits, tokens[:, 1:]).cpu().double()
        totals[chosen] = (losses * mask).sum(dim=1)
        counts[chosen] = mask.sum(dim=1).double()
    return totals, counts
