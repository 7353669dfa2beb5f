"""What the flavours' blocks have in common as vector fields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from odeformer.config import ModelConfig
from odeformer.field.parts import BlockWeights, Heads, TensorSpec, attend, rotary_table


@dataclass(frozen=True)
class Block(ABC):
    """Two residual branches on x [batch, tokens, width]."""

    config: ModelConfig

    @classmethod
    @abstractmethod
    def tensors(cls, config: ModelConfig) -> dict[str, TensorSpec]:
        """The tensors of one block, in a fixed order."""

    @classmethod
    @abstractmethod
    def at(cls, config: ModelConfig, x: Tensor, training: bool, mask: Tensor | None = None) -> Self:
        """The field for a state shaped like x; ``mask`` as of :func:`~odeformer.field.parts.attend`."""

    @abstractmethod
    def part(self, first: int, last: int) -> Block:
        """The field for the positions from ``first`` to before ``last`` alone."""

    @property
    def speed(self) -> float:
        """D: the factor between this field and dx/dt."""
        return float(self.config.depth)

    @abstractmethod
    def heads(self, x: Tensor, w: BlockWeights) -> Heads:
        """Queries, keys and values of x [batch, tokens, width]."""

    @abstractmethod
    def attention(self, x: Tensor, w: BlockWeights) -> Tensor:
        """Causal self-attention. [batch, tokens, width] → [batch, tokens, width]."""

    @abstractmethod
    def feed_forward(self, x: Tensor, w: BlockWeights) -> Tensor:
        """The other branch. [batch, tokens, width] → [batch, tokens, width]."""

    def __call__(self, x: Tensor, w: BlockWeights) -> Tensor:
        """The parallel field: both branches read the same x."""
        return self.attention(x, w) + self.feed_forward(x, w)


@dataclass(frozen=True)
class RotaryBlock(Block):
    """A block whose queries and keys are rotated by position (Su et al. 2021)."""

    cos: Tensor
    """[tokens, rotary dimensions], as ``sin``."""
    sin: Tensor
    mask: Tensor | None = None

    @classmethod
    def at(cls, config: ModelConfig, x: Tensor, training: bool, mask: Tensor | None = None) -> Self:
        return cls(config, *rotary_table(config, x.shape[1], x), mask)

    def part(self, first: int, last: int) -> Self:
        return type(self)(self.config, self.cos[first:last], self.sin[first:last])

    def attention(self, x: Tensor, w: BlockWeights) -> Tensor:
        return attend(self.heads(x, w), w, mask=self.mask)
