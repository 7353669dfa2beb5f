"""The loss of a model on a text file at a depth."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer

from odeformer.files.text import read_exactly
from odeformer.measure.text_loss import text_loss
from odeformer.model import Odeformer, SolveOptions


def read_ids(text: Path, tokenizer: Tokenizer) -> torch.Tensor:
    """The token ids [tokens] of a UTF-8 file, with begin-of-text if the tokenizer has it.

    Raises:
        ValueError: for a file that is not UTF-8.
    """
    return torch.tensor(tokenizer.encode(read_exactly(text)).ids)


def loss_at_depth(
    model: Odeformer, ids: torch.Tensor, depth: int | None, options: SolveOptions | None = None
) -> float:
    """Nats per token of ``ids`` [tokens] at depth N, by default the model's, in windows of its context."""
    context = model.config.context_length
    assert context is not None
    return text_loss(lambda x: model(x, depth=depth, options=options).logits, ids, context)
