"""How well a model bears a disturbed text: a part of ``analysis.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from odeformer.analysis.texts.robustness import Cut
    from odeformer.model import Odeformer

DRAWS = 8
LEAST_TOKENS = 16
"""A few percent of a shorter text are nothing."""


def robustness(model: Odeformer, tokenizer: Tokenizer, text: str, depth: int) -> dict[str, Any]:
    """Bits per character of the text as it is, and what disturbances add: at N = ``depth``, the least and the
    greatest.

    Of a text that fills the context its beginning is taken: so much that all disturbed ones fit, too.
    """
    from odeformer.analysis.depth import default_depths
    from odeformer.analysis.report import NOISE
    from odeformer.analysis.texts.disturbance import STRANGE

    usual = default_depths(model)
    depths = sorted({usual[0], depth, usual[-1]})
    settings = {
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
    kept, versions, left_out = fitting(tokenizer, text, model.config.context_length)
    settings["characters"] = len(kept)
    return {"settings": settings, **measured(model, tokenizer, kept, versions, depths), "left_out": left_out}


class Version(NamedTuple):
    """A text disturbed in one way at one strength, once for each draw."""

    kind: str
    strength: float
    label: str
    draws: list[Cut]


def fitting(
    tokenizer: Tokenizer, text: str, context_length: int | None
) -> tuple[str, list[Version], dict[str, str]]:
    """So much of the text's beginning that all its disturbed versions fit; those; and what had to be left
    out, with the reason."""
    while True:
        versions, left_out = disturbed(tokenizer, text)
        longest = max((len(cut.ids) for version in versions for cut in version.draws), default=0)
        if context_length is None or longest <= context_length:
            return text, versions, left_out
        text = text[: int(len(text) * context_length / longest) - 1]


def disturbed(tokenizer: Tokenizer, text: str) -> tuple[list[Version], dict[str, str]]:
    """The text in every way and strength; and of the ways that are not possible the reason."""
    from odeformer.analysis.texts.disturbance import DISTURBANCES

    versions, left_out = [], {}
    for kind, way in DISTURBANCES.items():
        try:
            versions += [_version(tokenizer, text, kind, strength) for strength in way.strengths]
        except ValueError as error:  # a text without letters, a tokenizer without tokens for it
            left_out[kind] = str(error)
    return versions, left_out


def measured(
    model: Odeformer, tokenizer: Tokenizer, text: str, versions: list[Version], depths: list[int]
) -> dict[str, Any]:
    """Of the text as it is, and a row for each way and strength, noise on embeddings the last."""
    from odeformer.analysis.report import NOISE
    from odeformer.analysis.texts.robustness import bits_per_character, bits_under_noise

    clean = _cut(tokenizer, text)
    as_it_is = [float(bits_per_character(model, [clean], n)[0]) for n in depths]
    rows = []
    for version in versions:
        bits = [bits_per_character(model, version.draws, n) for n in depths]
        rows.append(_row(version.kind, version.strength, version.label, bits, as_it_is))
    for size in NOISE:
        bits = [bits_under_noise(model, clean, size, DRAWS, n) for n in depths]
        rows.append(_row("noise", size, f"noise on embeddings, {100 * size:g} %", bits, as_it_is))
    return {"clean": as_it_is, "rows": rows}


def _version(tokenizer: Tokenizer, text: str, kind: str, strength: float) -> Version:
    from odeformer.analysis.texts.disturbance import DISTURBANCES

    way = DISTURBANCES[kind]
    texts = [way.disturb(text, strength, seed) for seed in range(DRAWS)]
    return Version(kind, strength, way.named(strength), [_cut(tokenizer, one) for one in texts])


def _cut(tokenizer: Tokenizer, text: str) -> Cut:
    from launcher.analysis.texts import encode
    from odeformer.analysis.texts.robustness import Cut

    return Cut(encode(tokenizer, text, None).ids, len(text))


def _row(kind: str, strength: float, label: str, bits: list[Tensor], clean: list[float]) -> dict[str, Any]:
    """At each depth what the disturbance adds, with its interval."""
    from odeformer.analysis.statistics.interval import bootstrap

    rises = [bootstrap(of - before) for of, before in zip(bits, clean, strict=True)]
    return {
        "kind": kind,
        "strength": strength,
        "label": label,
        "rise": [{name: float(f"{value:.6g}") for name, value in rise._asdict().items()} for rise in rises],
    }
