"""A vector field that remembers the keys and values of the tokens that were read before."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn import functional as F

from odeformer.field.parts import BlockWeights, Field, Heads, join_heads, project


class KVCache:
    """Keys and values of all tokens read so far, for each evaluation of the field in a solve.

    An ordinary transformer has one entry per layer; here a solver may evaluate the field several times per
    cell. Each entry is a pair of tensors [batch, heads, capacity, head width], allocated when it is first
    used.
    """

    def __init__(self, batch: int, capacity: int) -> None:
        self._batch, self._capacity = batch, capacity
        self._entries: list[tuple[Tensor, Tensor]] = []

    def update(self, entry: int, first: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of new tokens, and return those of all tokens up to them.

        Args:
            entry: the index of the evaluation in the solve.
            first: the position of the first new token.
            key: [batch, heads, new, head width].
            value: [batch, heads, new, head width].
        """
        if entry == len(self._entries):
            shape = (self._batch, key.shape[1], self._capacity, key.shape[3])
            self._entries.append((key.new_zeros(shape), value.new_zeros(shape)))
        keys, values = self._entries[entry]
        last = first + key.shape[2]
        keys[:, :, first:last] = key
        values[:, :, first:last] = value
        return keys[:, :, :last], values[:, :, :last]

    def reorder(self, rows: Tensor) -> None:
        """Replace row i by row ``rows[i]``, for rows int64 [batch]."""
        self._entries = [(keys[rows], values[rows]) for keys, values in self._entries]


class WithPast(ABC):
    """A vector field on new tokens, whose attention also covers tokens that were read before."""

    _field: Field
    """The field for all positions."""
    _part: Field
    """The field for the positions of the new tokens."""

    @property
    def speed(self) -> float:
        return self._field.speed

    def part(self, first: int, last: int) -> Field:
        return self._field.part(first, last)

    def heads(self, x: Tensor, w: BlockWeights) -> Heads:
        return self._part.heads(x, w)

    @abstractmethod
    def attention(self, x: Tensor, w: BlockWeights) -> Tensor:
        """Attention of the new tokens to themselves and the past: [batch, new, width] → the same."""

    def feed_forward(self, x: Tensor, w: BlockWeights) -> Tensor:
        return self._part.feed_forward(x, w)

    def __call__(self, x: Tensor, w: BlockWeights) -> Tensor:
        return self.attention(x, w) + self.feed_forward(x, w)


class CachedField(WithPast):
    """A vector field whose attention also covers earlier tokens, by means of a :class:`KVCache`.

    With any fixed-step solver, a new token costs one solve for that token only.
    """

    def __init__(self, field: Field, batch: int, capacity: int) -> None:
        self.cache = KVCache(batch, capacity)
        self._field = field
        self.at(0, 0, None)

    def at(self, first: int, last: int, mask: Tensor | None, last_only: bool = False) -> None:
        """Prepare a solve in which x holds the tokens at positions ``first`` to ``last`` − 1.

        Args:
            first: the position of the first token.
            last: the position after the last token.
            mask: bool [batch, 1, new, last], true where a new token may attend; causal when not given.
            last_only: whether only the last token's state at t = 1 is wanted.
        """
        self.first, self.last_only = first, last_only
        self._mask, self._evaluation = mask, 0
        self._part = self._field.part(first, last)

    def attention(self, x: Tensor, w: BlockWeights) -> Tensor:
        query, key, value = self._part.heads(x, w)
        keys, values = self.cache.update(self._evaluation, self.first, key, value)
        self._evaluation += 1
        return project(join_heads(self.mix(Heads(query, keys, values))), w, "out")

    def mix(self, heads: Heads) -> Tensor:
        """Attention of the new tokens' queries over all keys and values: [batch, heads, new, head width]."""
        query, key, value = heads
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=self._mask,
            is_causal=self._mask is None and self.first == 0,
            enable_gqa=key.shape[1] < query.shape[1],
        )
