"""What a text costs a model when it is disturbed, in bits per character: different tokens still compare."""

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
"""Texts in one pass."""


class Cut(NamedTuple):
    """A text as its tokens."""

    ids: list[int]
    """At least 2."""
    characters: int
    """Of the text."""


@torch.no_grad()
def bits_per_character(model: Odeformer, texts: Sequence[Cut], depth: int) -> Tensor:
    """Of each text, read by itself: [texts], float64.

    The first token is given, not predicted: it counts as the others' mean does.
    """
    found = []
    for first in range(0, len(texts), AT_ONCE):
        few = texts[first : first + AT_ONCE]
        # No token sees those behind it: what fills shorter ones up changes nothing before it.
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(text.ids) for text in few], batch_first=True)
        losses = token_losses(model(ids[:, :-1], depth=depth).logits, ids[:, 1:])
        found += [_bits(row[: len(text.ids) - 1], text) for row, text in zip(losses, few, strict=True)]
    return torch.stack(found)


@torch.no_grad()
def bits_under_noise(model: Odeformer, text: Cut, size: float, draws: int, depth: int) -> Tensor:
    """The same of one text with Gaussian noise on its tokens' embeddings, ‖noise‖ / ‖embeddings‖ = ``size``:
    [draws], float64."""
    ids = torch.tensor([text.ids])
    x, flow = model.embed(ids[:, :-1]), flow_of(model, ids.shape[1] - 1, depth)
    found = []
    for few in (x + noise_on(x, size, draws)).split(AT_ONCE):
        losses = token_losses(model.unembed(flow.end(few)), ids[:, 1:].expand(len(few), -1))
        found += [_bits(row, text) for row in losses]
    return torch.stack(found)


def _bits(losses: Tensor, text: Cut) -> Tensor:
    return losses.double().mean() * len(text.ids) / math.log(2) / text.characters
