"""GPT-NeoX's block as a vector field: LayerNorm, biases, exact GELU, partial rotary embedding."""

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
    fused_heads,
    layer_norm,
    project,
    reading_std,
    writing_std,
)


@dataclass(frozen=True)
class NeoXField(RotaryBlock):
    """GPT-NeoX's block; an Euler step of width 1/D equals its layer, with parallel branches."""

    @classmethod
    def tensors(cls, config: ModelConfig) -> dict[str, TensorSpec]:
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
        return self.rotated(fused_heads(x, w, self.config))

    def feed_forward(self, x: Tensor, w: BlockWeights) -> Tensor:
        """Two projections with the exact GELU: [batch, tokens, width] → [batch, tokens, width]."""
        x = layer_norm(x, w, "feed_forward_norm", self.config.epsilon)
        return project(F.gelu(project(x, w, "up")), w, "down")
