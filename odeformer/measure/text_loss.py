"""The loss of a model on a text of any length."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from odeformer.model import token_losses

BATCH = 16
"""Windows per forward pass."""


@torch.inference_mode()
def text_loss(logits_of: Callable[[Tensor], Tensor], ids: Tensor, context_length: int) -> float:
    """Mean loss in nats of all tokens but the first, read in separate windows.

    Args:
        logits_of: a model at a depth, as a function of token ids [batch, tokens] → [batch, tokens,
            vocabulary].
        ids: token ids of the text [n], n ≥ 2.
        context_length: tokens per window; the last window may be shorter.

    Raises:
        ValueError: for a text of fewer than two tokens.
    """
    if len(ids) < 2:
        raise ValueError(f"a text of {len(ids)} tokens has nothing to predict: at least 2 are needed")
    inputs, targets = ids[:-1], ids[1:]
    whole = len(inputs) // context_length * context_length
    total = 0.0
    for x, y in zip(
        inputs[:whole].view(-1, context_length).split(BATCH),
        targets[:whole].view(-1, context_length).split(BATCH),
        strict=True,
    ):
        total += float(token_losses(logits_of(x), y).sum())
    if whole < len(inputs):
        total += float(token_losses(logits_of(inputs[None, whole:]), targets[None, whole:]).sum())
    return total / len(inputs)
