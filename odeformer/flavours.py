"""The flavours: which transformer's block the vector field is, and what else a model of it has.

To add one, write a module with a subclass of :class:`odeformer.field.block.Block` and give it an entry in
``FLAVOURS``. Nothing here imports torch: settings are checked before it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Flavour:
    """An entry of ``FLAVOURS``."""

    field: str
    """``module:class`` of the vector field, imported when a model is built."""
    solver: str
    """The solver whose step is one of its ordinary layers."""
    norm: Literal["layer", "rms"]
    """LayerNorm or RMSNorm."""
    epsilon: float
    """Added to the variance in norms, by default."""
    rotary_fraction: float | None
    """The part of each head's dimensions that is rotated by position, by default; None: positions are learned
    ones, added to the embedding."""
    prelude: int = 1
    """Layers at the beginning that are a whole step each, by default."""
    dropout: float | None = None
    """The rate by default; None: it has no dropout."""
    grouped_heads: bool = False
    """Whether keys and values may have fewer heads than queries."""


FLAVOURS = {
    "neox": Flavour(
        "odeformer.field.neox:NeoXField", solver="euler", norm="layer", epsilon=1e-5, rotary_fraction=0.25
    ),
    "llama": Flavour(
        "odeformer.field.llama:LlamaField",
        solver="lie_trotter",
        norm="rms",
        epsilon=1e-6,
        rotary_fraction=1.0,
        grouped_heads=True,
    ),
    "paper": Flavour(
        "odeformer.field.paper:PaperField",
        solver="euler",
        norm="layer",
        epsilon=1e-5,
        rotary_fraction=None,
        prelude=0,
        dropout=0.1,
    ),
}


def flavour_named(name: str) -> Flavour:
    """The flavour of that name.

    Raises:
        ValueError: naming the flavours there are.
    """
    if name not in FLAVOURS:
        raise ValueError(f"flavour {name!r} is unknown; there are: {', '.join(FLAVOURS)}")
    return FLAVOURS[name]
