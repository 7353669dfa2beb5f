"""Llama's block as a vector field: RMSNorm, no biases, SwiGLU, grouped-query attention, rotary embedding."""

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
    project,
    reading_std,
    rms_norm,
    writing_std,
)


@dataclass(frozen=True)
class LlamaField(RotaryBlock):
    """Llama's block; a Lie–Trotter step of width 1/D equals its layer, with sequential branches."""

    @classmethod
    def tensors(cls, config: ModelConfig) -> dict[str, TensorSpec]:
        """Names, shapes and initialization; ``qkv`` holds the rows of all queries, then keys, then values."""
        width, hidden = config.width, config.hidden_width
        read, write = reading_std(config), writing_std(config)
        qkv_rows = (config.heads + 2 * config.groups) * config.head_width
        return {
            "attention_norm_weight": TensorSpec((width,), mean=1.0),
            "qkv_weight": TensorSpec((qkv_rows, width), std=read),
            "out_weight": TensorSpec((width, width), std=write),
            "feed_forward_norm_weight": TensorSpec((width,), mean=1.0),
            "gate_weight": TensorSpec((hidden, width), std=read),
            "up_weight": TensorSpec((hidden, width), std=read),
            "down_weight": TensorSpec((width, hidden), std=write),
        }

    def heads(self, x: Tensor, w: BlockWeights) -> Heads:
        """Queries, keys and values of x [batch, tokens, width]; keys and values may have fewer heads."""
        heads, groups = self.config.heads, self.config.groups
        qkv = project(rms_norm(x, w, "attention_norm", self.config.epsilon), w, "qkv")
        qkv = qkv.unflatten(-1, (heads + 2 * groups, self.config.head_width)).transpose(1, 2)
        return self.rotated(Heads(*qkv.split([heads, groups, groups], dim=1)))

    def feed_forward(self, x: Tensor, w: BlockWeights) -> Tensor:
        """SwiGLU (Shazeer 2020, arXiv 2002.05202): [batch, tokens, width] → [batch, tokens, width]."""
        x = rms_norm(x, w, "feed_forward_norm", self.config.epsilon)
        return project(F.silu(project(x, w, "gate")) * project(x, w, "up"), w, "down")
