"""Row layouts of fused query, key and value projections, for weights [rows, in] and biases [rows]."""

from __future__ import annotations

from torch import Tensor

from odeformer.config import ModelConfig


def neox_to_gpt2(rows: Tensor, heads: int) -> Tensor:
    """Reorder rows from GPT-NeoX's layout (each head's query, key, value) to all queries, keys, values."""
    return rows.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)


def gpt2_to_neox(rows: Tensor, heads: int) -> Tensor:
    """The inverse of :func:`neox_to_gpt2`."""
    return rows.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)


def split_llama(rows: Tensor, config: ModelConfig) -> tuple[Tensor, ...]:
    """The query, key and value rows of the ``llama`` flavour, whose keys and values may have fewer heads."""
    shared = config.groups * config.head_width
    return rows.split([config.width, shared, shared])
