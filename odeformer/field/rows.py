"""A vector field over rows at different positions, each with the keys and values of its own past."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from odeformer.field.block import Block
from odeformer.field.cached import WithPast
from odeformer.field.parts import BlockWeights, join_heads, project


class RowField(WithPast):
    """A field for decoding rows that began at different times.

    The keys and values of each evaluation in a solve are kept in tensors [rows, heads, capacity, head width],
    allocated at its first use. A solve covers the first rows.
    """

    def __init__(self, field: Block, rows: int, capacity: int) -> None:
        self._field: Block = field
        self._rows, self._capacity = rows, capacity
        self.entries: list[tuple[Tensor, Tensor]] = []

    def at(self, positions: Tensor, last: int) -> None:
        """Prepare a solve in which x [n, new, width] holds the first n rows' tokens at these positions.

        Args:
            positions: int64 [n, new].
            last: the largest of them, plus one.
        """
        self._positions, self._last, self._evaluation = positions, last, 0
        self._part = self._field.at_positions(positions)
        keys = torch.arange(last, device=positions.device)
        self._mask = keys <= positions[:, None, :, None]

    def attention(self, x: Tensor, w: BlockWeights) -> Tensor:
        query, key, value = self._part.heads(x, w)
        keys, values = self._stored(key, value)
        mixed = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=self._mask, enable_gqa=keys.shape[1] < query.shape[1]
        )
        return project(join_heads(mixed), w, "out")

    def _stored(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values [n, heads, new, head width]; return those of all tokens of the n rows."""
        if self._evaluation == len(self.entries):
            shape = (self._rows, key.shape[1], self._capacity, key.shape[3])
            self.entries.append((key.new_zeros(shape), value.new_zeros(shape)))
        rows, kept = len(key), self.entries[self._evaluation]
        self._evaluation += 1
        row_of = torch.arange(rows, device=key.device)[:, None]
        for stored, new in zip(kept, (key, value), strict=True):
            stored[row_of, :, self._positions] = new.transpose(1, 2)
        return kept[0][:rows, :, : self._last], kept[1][:rows, :, : self._last]
