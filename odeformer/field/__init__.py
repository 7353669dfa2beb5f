"""The vector field f of dx/dt = D · f(x; W), where f(x; W) = attention(x; W) + feed_forward(x; W).

A field is one transformer block without parameters of its own: W, the block's weights at time t, is an
argument. Each flavour has a module (:mod:`odeformer.flavours`) with a subclass of
:class:`~odeformer.field.block.Block`; ``neox`` is a good one to read first.
"""

from __future__ import annotations

import math
from pkgutil import resolve_name
from typing import cast

from torch import Tensor

from odeformer.config import ModelConfig
from odeformer.field.block import Block
from odeformer.field.compiled import CompiledField
from odeformer.field.parts import BlockWeights, Field, TensorSpec, document_mask


def block_of(config: ModelConfig) -> type[Block]:
    """The vector field class of the config's flavour."""
    return cast(type[Block], resolve_name(config.traits.field))


def block_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    """Names, shapes and initialization of one block's tensors, in a fixed order."""
    return block_of(config).tensors(config)


def block_size(config: ModelConfig) -> int:
    """Number of weights in one block, that is, in W(t) at one t."""
    return sum(math.prod(spec.shape) for spec in block_tensors(config).values())


def build_field(
    config: ModelConfig, x: Tensor, training: bool, documents: Tensor | None = None, compiled: bool = False
) -> Field:
    """The vector field for states of the shape, dtype and device of x [batch, tokens, width].

    ``training`` turns dropout on. If the document number of each token is given, int64 [batch, tokens],
    tokens attend only within their document. ``compiled`` uses ``torch.compile``.
    """
    mask = None if documents is None else document_mask(documents)
    block = block_of(config).at(config, x, training, mask)
    return CompiledField(block) if compiled else block


__all__ = ["BlockWeights", "Field", "TensorSpec", "block_size", "block_tensors", "build_field"]
