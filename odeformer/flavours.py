"""Model flavours: the transformer family whose block serves as vector field, with its defaults.

To add one, write a module with a subclass of :class:`odeformer.field.block.Block` and give it an entry in
``FLAVOURS``. This module does not import torch, so that settings can be checked without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from odeformer.section import look_up


@dataclass(frozen=True)
class Flavour:
    """Traits of a transformer family, and default values of its settings."""

    field: str
    """``module:class`` of the vector field, imported when a model is built."""
    solver: str
    """The solver whose step equals one layer of the ordinary transformer."""
    norm: Literal["layer", "rms"]
    """LayerNorm or RMSNorm."""
    epsilon: float
    """Default constant added to the variance in norms."""
    rotary_fraction: float | None
    """Default fraction of each head's dimensions with rotary embedding; None means that positions are learned
    and added to the token embedding."""
    prelude: int = 1
    """Default number of prelude layers (``ModelConfig.prelude``)."""
    dropout: float | None = None
    """Default dropout rate; None if the flavour has no dropout."""
    grouped_heads: bool = False
    """Whether keys and values may have fewer heads than queries (grouped-query attention)."""


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
    """The flavour of that name, see :func:`odeformer.section.look_up`."""
    return look_up("flavour", name, FLAVOURS)
