"""GPT-NeoX's block as a vector field: LayerNorm, biases, exact GELU, partly rotated heads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from odeformer.config import ModelConfig
from odeformer.field.block import RotaryBlock
from odeformer.field.parts import (
    BlockWeights,
    Heads,
    TensorSpec,
    alone,
    layer_norm,
    project,
    reading_std,
    rotate,
    writing_std,
)


@dataclass(frozen=True)
class NeoXField(RotaryBlock):
    """Two residual branches that read the same x [batch, tokens, width]."""

    @classmethod
    def tensors(cls, config: ModelConfig) -> dict[str, TensorSpec]:
        """The tensors of one block, in a fixed order."""
        width, hidden = config.width, config.hidden_width
        read, write = reading_std(config), writing_std(config)
        return {
            "attention_norm_weight": TensorSpec((width,), mean=1.0),
            "attention_norm_bias": TensorSpec((width,)),
            "qkv_weight": TensorSpec((3 * width, width), std=read),
            "qkv_bias": TensorSpec((3 * width,)),
            "out_weight": TensorSpec((width, width), std=write),
            "out_bias": TensorSpec((width,)),
            "feed_forward_norm_weight": TensorSpec((width,), mean=1.0),
            "feed_forward_norm_bias": TensorSpec((width,)),
            "up_weight": TensorSpec((hidden, width), std=read),
            "up_bias": TensorSpec((hidden,)),
            "down_weight": TensorSpec((width, hidden), std=write),
            "down_bias": TensorSpec((width,)),
        }

    def heads(self, x: Tensor, w: BlockWeights) -> Heads:
        """Queries, keys and values of x [batch, tokens, width]."""
        batch, length, _ = x.shape
        x = layer_norm(x, w, "attention_norm", self.config.epsilon)
        # GPT-NeoX's layout: each head's query, key and value lie side by side.
        qkv = project(x, w, "qkv").view(batch, length, self.config.heads, 3, self.config.head_width)
        query, key, value = qkv.transpose(1, 2).unbind(dim=3)
        return Heads(rotate(query, self.cos, self.sin), rotate(key, self.cos, self.sin), alone(value))

    def feed_forward(self, x: Tensor, w: BlockWeights) -> Tensor:
        """Two projections with an exact GELU between. [batch, tokens, width] → [batch, tokens, width]."""
        x = layer_norm(x, w, "feed_forward_norm", self.config.epsilon)
        return project(F.gelu(project(x, w, "up")), w, "down")
