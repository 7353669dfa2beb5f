"""Robustness to disturbed texts: a part of ``analysis.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from launcher.analysis.files import encode
from odeformer.analysis.content import DisturbanceRow, Robustness, Settings, numbers
from odeformer.analysis.depth import default_depths
from odeformer.analysis.dynamics.parts import NOISE
from odeformer.analysis.statistics import bootstrap
from odeformer.analysis.texts.disturbance import DISTURBANCES, STRANGE
from odeformer.analysis.texts.robustness import EncodedText, bits_per_character, bits_under_noise

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from odeformer.model import Odeformer

DRAWS = 8
LEAST_TOKENS = 16
"""Minimum number of tokens; a few percent of a shorter text are nothing."""


class Version(NamedTuple):
    """A text disturbed in one way at one strength, once for each draw."""

    kind: str
    strength: float
    label: str
    draws: list[EncodedText]


def robustness(model: Odeformer, tokenizer: Tokenizer, text: str, depth: int) -> Robustness:
    """Bits per character of the text, and what disturbances add, at N = ``depth``, the least and the greatest
    N.

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
    if len(tokenizer.encode(text, add_special_tokens=False).ids) < LEAST_TOKENS:
        return {"settings": settings, "clean": None, "rows": [], "left_out": {}}

    text, versions, left_out = fitting(tokenizer, text, model.config.context_length)
    settings["characters"] = len(text)
    encoded = _encoded(tokenizer, text)
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
    tokenizer: Tokenizer, text: str, context_length: int | None
) -> tuple[str, list[Version], dict[str, str]]:
    """The longest beginning of the text whose disturbed versions all fit the context, with its
    :func:`disturbed` versions and the kinds left out."""
    while True:
        versions, left_out = disturbed(tokenizer, text)
        longest = max((len(draw.ids) for version in versions for draw in version.draws), default=0)
        if context_length is None or longest <= context_length:
            return text, versions, left_out
        text = text[: int(len(text) * context_length / longest) - 1]


def disturbed(tokenizer: Tokenizer, text: str) -> tuple[list[Version], dict[str, str]]:
    """The text disturbed in each way and strength, and the reason for each way that is impossible."""
    versions, left_out = [], {}
    for kind, way in DISTURBANCES.items():
        try:
            versions += [_version(tokenizer, text, kind, strength) for strength in way.strengths]
        except ValueError as error:  # a text without letters, a tokenizer without some character
            left_out[kind] = str(error)
    return versions, left_out


def _version(tokenizer: Tokenizer, text: str, kind: str, strength: float) -> Version:
    way = DISTURBANCES[kind]
    draws = [_encoded(tokenizer, way.disturb(text, strength, seed)) for seed in range(DRAWS)]
    return Version(kind, strength, way.named(strength), draws)


def _encoded(tokenizer: Tokenizer, text: str) -> EncodedText:
    return EncodedText(encode(tokenizer, text, None).ids, len(text))


def _row(kind: str, strength: float, label: str, bits: list[Tensor], clean: list[float]) -> DisturbanceRow:
    """The mean rise over the clean text at each depth, with its interval."""
    rises = [bootstrap(disturbed - before) for disturbed, before in zip(bits, clean, strict=True)]
    return {
        "kind": kind,
        "strength": strength,
        "label": label,
        "rise": [{name: numbers(value) for name, value in rise._asdict().items()} for rise in rises],
    }
