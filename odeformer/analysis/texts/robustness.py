"""Loss of disturbed texts in bits per character, which compares across different tokenisations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from odeformer.analysis.dynamics.noise import noise_on
from odeformer.analysis.flow import flow_of
from odeformer.model import Odeformer, token_losses

AT_ONCE = 4
"""The batch size of forward passes."""


class EncodedText(NamedTuple):
    """The token ids of a text, at least 2, and its number of characters."""

    ids: list[int]
    characters: int


@torch.no_grad()
def bits_per_character(model: Odeformer, texts: Sequence[EncodedText], depth: int) -> Tensor:
    """Bits per character of each text: [texts], float64.

    The first token is not predicted; it counts as the mean of the others.
    """
    bits = []
    for first in range(0, len(texts), AT_ONCE):
        few = texts[first : first + AT_ONCE]
        # Attention is causal: padding at the end changes nothing before it.
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(text.ids) for text in few], batch_first=True)
        losses = token_losses(model(ids[:, :-1], depth=depth).logits, ids[:, 1:])
        bits += [_bits(row[: len(text.ids) - 1], text) for row, text in zip(losses, few, strict=True)]
    return torch.stack(bits)


@torch.no_grad()
def bits_under_noise(model: Odeformer, text: EncodedText, size: float, draws: int, depth: int) -> Tensor:
    """Bits per character of a text with Gaussian noise on its embeddings, ‖noise‖ / ‖embeddings‖ = ``size``:
    [draws], float64."""
    ids = torch.tensor([text.ids])
    x, flow = model.embed(ids[:, :-1]), flow_of(model, ids.shape[1] - 1, depth)
    bits = []
    for few in (x + noise_on(x, size, draws)).split(AT_ONCE):
        losses = token_losses(model.unembed(flow.end(few)), ids[:, 1:].expand(len(few), -1))
        bits += [_bits(row, text) for row in losses]
    return torch.stack(bits)


def _bits(losses: Tensor, text: EncodedText) -> Tensor:
    return losses.double().mean() * len(text.ids) / math.log(2) / text.characters
