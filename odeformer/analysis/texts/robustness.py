"""Robustness to disturbed texts, in bits per character, which compare across different tokenizations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from odeformer.analysis.content import DisturbanceRow, Robustness, Settings, numbers
from odeformer.analysis.depth import default_depths
from odeformer.analysis.dynamics.noise import noise_on
from odeformer.analysis.dynamics.parts import NOISE
from odeformer.analysis.flow import flow_of
from odeformer.analysis.statistics import bootstrap
from odeformer.analysis.texts.disturbance import DISTURBANCES, STRANGE
from odeformer.model import Odeformer, token_losses

AT_ONCE = 4
"""The batch size of forward passes."""
DRAWS = 8
LEAST_TOKENS = 16
"""Minimum number of tokens; a few percent of a shorter text are nothing."""
Encode = Callable[[str], list[int]]
"""Token ids of a text, at least 2; raises ``ValueError`` for a character without a token."""


class EncodedText(NamedTuple):
    """The token ids of a text, at least 2, and its number of characters."""

    ids: list[int]
    characters: int


class Version(NamedTuple):
    """A text disturbed in one way at one strength, once for each draw."""

    kind: str
    strength: float
    label: str
    draws: list[EncodedText]


def robustness(model: Odeformer, encode: Encode, text: str, depth: int) -> Robustness:
    """Bits per character of the text, and what disturbances add, at three depths.

    The depths are the least, the greatest and ``depth``.

    Only the beginning of a text is used if its disturbed versions would exceed the context.
    """
    usual = default_depths(model)
    depths = sorted({usual[0], depth, usual[-1]})
    settings: Settings = {
        "depths": depths,
        "unit": "bits per character of the text that was read; rise: less those of the text as it is",
        "draws": DRAWS,
        "interval": "95 %, bootstrap over draws: another text is not in it",
        "strange": STRANGE,
        "noise": NOISE,
        "characters": len(text),
        "of": len(text),
        "least_tokens": LEAST_TOKENS,
    }
    if len(encode(text)) < LEAST_TOKENS:
        return {"settings": settings, "clean": None, "rows": [], "left_out": {}}

    text, versions, left_out = fitting(encode, text, model.config.context_length)
    settings["characters"] = len(text)
    encoded = EncodedText(encode(text), len(text))
    clean = [float(bits_per_character(model, [encoded], n)[0]) for n in depths]
    rows = []
    for version in versions:
        bits = [bits_per_character(model, version.draws, n) for n in depths]
        rows.append(_row(version.kind, version.strength, version.label, bits, clean))
    for size in NOISE:
        bits = [bits_under_noise(model, encoded, size, DRAWS, n) for n in depths]
        rows.append(_row("noise", size, f"noise on embeddings, {100 * size:g} %", bits, clean))
    return {"settings": settings, "clean": clean, "rows": rows, "left_out": left_out}


def fitting(
    encode: Encode, text: str, context_length: int | None
) -> tuple[str, list[Version], dict[str, str]]:
    """The longest beginning of the text whose disturbed versions all fit the context.

    With it come its :func:`disturbed` versions and the kinds left out.
    """
    while True:
        versions, left_out = disturbed(encode, text)
        draws = chain.from_iterable(version.draws for version in versions)
        longest = max((len(draw.ids) for draw in draws), default=0)
        if context_length is None or longest <= context_length:
            return text, versions, left_out
        text = text[: int(len(text) * context_length / longest) - 1]


def disturbed(encode: Encode, text: str) -> tuple[list[Version], dict[str, str]]:
    """The text disturbed in each way and strength, and the reason for each way that is impossible."""
    versions, left_out = [], {}
    for kind, way in DISTURBANCES.items():
        try:
            versions += [_version(encode, text, kind, strength) for strength in way.strengths]
        except ValueError as error:  # a text without letters, a tokenizer without some character
            left_out[kind] = str(error)
    return versions, left_out


def _version(encode: Encode, text: str, kind: str, strength: float) -> Version:
    way = DISTURBANCES[kind]
    texts = [way.disturb(text, strength, seed) for seed in range(DRAWS)]
    draws = [EncodedText(encode(draw), len(draw)) for draw in texts]
    return Version(kind, strength, way.named(strength), draws)


def _row(kind: str, strength: float, label: str, bits: list[Tensor], clean: list[float]) -> DisturbanceRow:
    """The mean rise over the clean text at each depth, with its interval."""
    rises = [bootstrap(disturbed - before) for disturbed, before in zip(bits, clean, strict=True)]
    rise = [numbers(interval._asdict()) for interval in rises]
    return {"kind": kind, "strength": strength, "label": label, "rise": rise}


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
    """Bits per character of a text with Gaussian noise on its embeddings: [draws], float64.

    ‖noise‖ / ‖embeddings‖ = ``size``.
    """
    ids = torch.tensor([text.ids])
    x, flow = model.embed(ids[:, :-1]), flow_of(model, ids.shape[1] - 1, depth)
    bits = []
    for few in (x + noise_on(x, size, draws)).split(AT_ONCE):
        losses = token_losses(model.unembed(flow.end(few)), ids[:, 1:].expand(len(few), -1))
        bits += [_bits(row, text) for row in losses]
    return torch.stack(bits)


def _bits(losses: Tensor, text: EncodedText) -> Tensor:
    return losses.double().mean() * len(text.ids) / math.log(2) / text.characters
