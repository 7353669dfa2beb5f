"""The block published by Tong et al. (2025) as a vector field: GPT-2's with parallel branches and dropout.

Positions are learned and added to the token embedding by the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor
from torch.nn import functional as F

from odeformer.config import ModelConfig
from odeformer.field.block import Block
from odeformer.field.neox import NeoXField
from odeformer.field.parts import (
    BlockWeights,
    Heads,
    TensorSpec,
    attend,
    fused_heads,
    layer_norm,
    project,
)


@dataclass(frozen=True)
class PaperField(Block):
    """GPT-2's block with parallel branches; it has the same tensors as :class:`NeoXField`."""

    training: bool
    mask: Tensor | None = None

    @classmethod
    def tensors(cls, config: ModelConfig) -> dict[str, TensorSpec]:
        return NeoXField.tensors(config)

    @classmethod
    def at(cls, config: ModelConfig, x: Tensor, training: bool, mask: Tensor | None = None) -> Self:
        return cls(config, training, mask)

    def part(self, first: int, last: int) -> Self:
        return self  # the field does not depend on positions

    def at_positions(self, positions: Tensor) -> Self:
        return self

    def heads(self, x: Tensor, w: BlockWeights) -> Heads:
        return fused_heads(x, w, self.config)

    def attention(self, x: Tensor, w: BlockWeights) -> Tensor:
        rate = self.config.dropout_rate if self.training else 0.0
        return self._dropout(attend(self.heads(x, w), w, rate, self.mask))

    def feed_forward(self, x: Tensor, w: BlockWeights) -> Tensor:
        """Two projections with GPT-2's GELU: [batch, tokens, width] → [batch, tokens, width]."""
        x = layer_norm(x, w, "feed_forward_norm", self.config.epsilon)
        hidden = F.gelu(project(x, w, "up"), approximate="tanh")
        return self._dropout(project(hidden, w, "down"))

    def _dropout(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout_rate, self.training)
