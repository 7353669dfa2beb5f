"""The published block (Tong et al. 2025) as a vector field: GPT-2's with parallel branches and dropout.

The positions are learned ones, added to the embedding by the model.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from odeformer.config import ModelConfig
from odeformer.field.neox import tensors as tensors
from odeformer.field.parts import BlockWeights, Heads, attend, layer_norm, project


@dataclass(frozen=True)
class PaperField:
    """Two residual branches that read the same x [batch, time, width]; its tensors are GPT-NeoX's."""

    config: ModelConfig
    training: bool
    mask: Tensor | None = None

    @classmethod
    def at(cls, config: ModelConfig, x: Tensor, training: bool, mask: Tensor | None = None) -> PaperField:
        """The field for a state shaped like x; with dropout while training."""
        return cls(config, training, mask)

    def part(self, first: int, last: int) -> PaperField:
        """The field for the positions from ``first`` to before ``last`` alone: the same at all of them."""
        return self

    @property
    def speed(self) -> float:
        """D: the factor between this field and dx/dt."""
        return float(self.config.depth)

    def heads(self, x: Tensor, w: BlockWeights) -> Heads:
        """Queries, keys and values of x [batch, time, width]."""
        batch, time, _ = x.shape
        qkv = project(layer_norm(x, w, "attention_norm", self.config.epsilon), w, "qkv")
        qkv = qkv.view(batch, time, self.config.heads, 3, self.config.head_width).transpose(1, 2)
        return Heads(*qkv.unbind(dim=3))

    def attention(self, x: Tensor, w: BlockWeights) -> Tensor:
        """Causal self-attention. [batch, time, width] → [batch, time, width]."""
        rate = self.config.dropout_rate if self.training else 0.0
        return self._dropout(attend(self.heads(x, w), w, rate, self.mask))

    def feed_forward(self, x: Tensor, w: BlockWeights) -> Tensor:
        """Two projections with GPT-2's GELU between. [batch, time, width] → [batch, time, width]."""
        x = layer_norm(x, w, "feed_forward_norm", self.config.epsilon)
        hidden = F.gelu(project(x, w, "up"), approximate="tanh")
        return self._dropout(project(hidden, w, "down"))

    def __call__(self, x: Tensor, w: BlockWeights) -> Tensor:
        """The parallel field: both branches read the same x."""
        return self.attention(x, w) + self.feed_forward(x, w)

    def _dropout(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout_rate, self.training)
