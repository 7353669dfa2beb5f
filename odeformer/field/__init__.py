"""The vector field: dx/dt = D · (attention(x; W) + feed_forward(x; W)). Pure functions, no parameters.

One module per flavour; each has the block's ``tensors`` and a field class with ``attention``,
``feed_forward`` and their sum.
"""

from __future__ import annotations

import math

from torch import Tensor

from odeformer.config import ModelConfig
from odeformer.field import llama, neox, paper
from odeformer.field.parts import BlockWeights, Field, TensorSpec, document_mask

TENSORS = {"neox": neox.tensors, "llama": llama.tensors, "paper": paper.tensors}
FIELDS: dict[str, type[neox.NeoXField] | type[llama.LlamaField] | type[paper.PaperField]] = {
    "neox": neox.NeoXField,
    "llama": llama.LlamaField,
    "paper": paper.PaperField,
}


def block_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    """The tensors of one block of this flavour, in a fixed order."""
    return TENSORS[config.flavour](config)


def block_size(config: ModelConfig) -> int:
    """The number of weights of one block: W(t) has as many at each t."""
    return sum(math.prod(spec.shape) for spec in block_tensors(config).values())


def build_field(config: ModelConfig, x: Tensor, training: bool, documents: Tensor | None = None) -> Field:
    """The flavour's field for a state shaped like x [batch, time, width].

    With ``documents`` [batch, time], a number for each token, no token sees one of another number.
    """
    mask = None if documents is None else document_mask(documents)
    return FIELDS[config.flavour].at(config, x, training, mask)


__all__ = ["BlockWeights", "Field", "TensorSpec", "block_size", "block_tensors", "build_field"]
