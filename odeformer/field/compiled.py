"""A vector field that is evaluated by code from ``torch.compile``.

What is compiled is one evaluation of the block on given weights. All cells, at any depth N, use the same
code: compile time does not grow with N, and another N compiles nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from odeformer.compiled import compiled
from odeformer.field.block import Block
from odeformer.field.parts import BlockWeights, Field, Heads


@dataclass(frozen=True)
class CompiledField:
    """The compiled form of a flavour's vector field; the first call for a shape compiles for some seconds."""

    field: Block

    @property
    def speed(self) -> float:
        return self.field.speed

    def part(self, first: int, last: int) -> Field:
        return CompiledField(self.field.part(first, last))

    def heads(self, x: Tensor, w: BlockWeights) -> Heads:
        return self.field.heads(x, w)

    def attention(self, x: Tensor, w: BlockWeights) -> Tensor:
        return compiled(type(self.field).attention)(self.field, x, w)

    def feed_forward(self, x: Tensor, w: BlockWeights) -> Tensor:
        return compiled(type(self.field).feed_forward)(self.field, x, w)

    def __call__(self, x: Tensor, w: BlockWeights) -> Tensor:
        return compiled(type(self.field).__call__)(self.field, x, w)
