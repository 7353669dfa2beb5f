"""The vector field: dx/dt = D · (attention(x; W) + feed_forward(x; W)). Pure functions, no parameters.

One module for each flavour (:mod:`odeformer.flavours`), with a subclass of
:class:`~odeformer.field.block.Block`.
"""

from __future__ import annotations

import math
from pkgutil import resolve_name
from typing import cast

from torch import Tensor

from odeformer.config import ModelConfig
from odeformer.field.block import Block
from odeformer.field.parts import BlockWeights, Field, TensorSpec, document_mask


def block_of(config: ModelConfig) -> type[Block]:
    """The class of the flavour's field."""
    return cast(type[Block], resolve_name(config.traits.field))


def block_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    """The tensors of one block of this flavour, in a fixed order."""
    return block_of(config).tensors(config)


def block_size(config: ModelConfig) -> int:
    """The number of weights of one block: W(t) has as many at each t."""
    return sum(math.prod(spec.shape) for spec in block_tensors(config).values())


def build_field(config: ModelConfig, x: Tensor, training: bool, documents: Tensor | None = None) -> Field:
    """The flavour's field for a state shaped like x [batch, tokens, width].

    With ``documents`` [batch, tokens], a number for each token, no token sees one of another number.
    """
    mask = None if documents is None else document_mask(documents)
    return block_of(config).at(config, x, training, mask)


__all__ = ["BlockWeights", "Field", "TensorSpec", "block_size", "block_tensors", "build_field"]
