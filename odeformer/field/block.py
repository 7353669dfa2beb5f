"""Base classes of the flavours' vector fields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from odeformer.config import ModelConfig
from odeformer.field.parts import (
    BlockWeights,
    Heads,
    TensorSpec,
    attend,
    own_memory,
    rotary_table,
    rotate,
)


@dataclass(frozen=True)
class Block(ABC):
    """A transformer block as a vector field: dx/dt = speed · (attention(x; w) + feed_forward(x; w)).

    Each branch starts with its own norm. ``w`` holds the block's weights at one time t.
    """

    config: ModelConfig

    @classmethod
    @abstractmethod
    def tensors(cls, config: ModelConfig) -> dict[str, TensorSpec]:
        """Names, shapes and initialization of the block's tensors, in a fixed order."""

    @classmethod
    @abstractmethod
    def at(cls, config: ModelConfig, x: Tensor, training: bool, mask: Tensor | None = None) -> Self:
        """The field for states of the shape, dtype and device of x [batch, tokens, width].

        ``training`` turns dropout on; ``mask`` is as in :func:`~odeformer.field.parts.attend`.
        """

    @abstractmethod
    def part(self, first: int, last: int) -> Block:
        """The field for states that hold only the token positions from ``first`` to ``last`` − 1."""

    @abstractmethod
    def at_positions(self, positions: Tensor) -> Block:
        """The field for states whose tokens are at these positions, int64 [batch, tokens]."""

    @property
    def speed(self) -> float:
        """D, the factor between the field and dx/dt."""
        return float(self.config.depth)

    @abstractmethod
    def heads(self, x: Tensor, w: BlockWeights) -> Heads:
        """Queries, keys and values of x [batch, tokens, width]."""

    @abstractmethod
    def attention(self, x: Tensor, w: BlockWeights) -> Tensor:
        """Causal self-attention: [batch, tokens, width] → [batch, tokens, width]."""

    @abstractmethod
    def feed_forward(self, x: Tensor, w: BlockWeights) -> Tensor:
        """The feed-forward branch: [batch, tokens, width] → [batch, tokens, width]."""

    def __call__(self, x: Tensor, w: BlockWeights) -> Tensor:
        """The sum of both branches on the same x: [batch, tokens, width] → [batch, tokens, width]."""
        return self.attention(x, w) + self.feed_forward(x, w)


@dataclass(frozen=True)
class RotaryBlock(Block):
    """A block with rotary position embedding (Su et al. 2021, arXiv 2104.09864)."""

    cos: Tensor
    """Cosines of the rotation angles, [tokens, rotary dimensions]."""
    sin: Tensor
    """Sines of the rotation angles, [tokens, rotary dimensions]."""
    mask: Tensor | None = None
    """Attention mask, bool [batch, 1, tokens, tokens]; None means causal."""

    @classmethod
    def at(cls, config: ModelConfig, x: Tensor, training: bool, mask: Tensor | None = None) -> Self:
        return cls(config, *rotary_table(config, x.shape[1], x), mask)

    def part(self, first: int, last: int) -> Self:
        return type(self)(self.config, self.cos[first:last], self.sin[first:last])

    def at_positions(self, positions: Tensor) -> Self:
        # With a dimension for the heads.
        return type(self)(self.config, self.cos[positions][:, None], self.sin[positions][:, None])

    def attention(self, x: Tensor, w: BlockWeights) -> Tensor:
        return attend(self.heads(x, w), w, mask=self.mask)

    def rotated(self, heads: Heads) -> Heads:
        """The heads with queries and keys rotated by position."""
        query, key = (rotate(part, self.cos, self.sin) for part in (heads.query, heads.key))
        return Heads(query, key, own_memory(heads.value))
