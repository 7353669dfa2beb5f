"""LlamaForCausalLM: Lie–Trotter on the ``llama`` flavour."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from odeformer.config import ModelConfig
from odeformer.interop.hf.architectures.layout import (
    Architecture,
    check_values,
    rotary_settings,
    shape_settings,
)
from odeformer.interop.materialize import Ordinary
from odeformer.interop.qkv import split_llama


class Llama(Architecture):
    """Llama, with separate projections for queries, keys and values."""

    name = "LlamaForCausalLM"
    model_type = "llama"
    flavour = "llama"
    solvers = ("lie_trotter",)
    layer = "model.layers.{}."
    modules: ClassVar = {
        "attention_norm": "input_layernorm",
        "out": "self_attn.o_proj",
        "feed_forward_norm": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    }
    outer: ClassVar = {
        "embedding.weight": "model.embed_tokens.weight",
        "final_norm.weight": "model.norm.weight",
    }
    head = "lm_head.weight"
    buffers = (".rotary_emb.inv_freq",)

    def to_config(self, ordinary: Ordinary) -> Any:
        from transformers import LlamaConfig

        config = ordinary.config
        if config.rotary_dimensions != config.head_width:
            raise ValueError(f"rotary_fraction {config.rotary_fraction}: {self.name} rotates whole heads")
        return LlamaConfig(
            **shape_settings(ordinary),
            architectures=[self.name],
            intermediate_size=config.hidden_width,
            num_key_value_heads=config.groups,
            head_dim=config.head_width,
            rms_norm_eps=config.epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": config.rotary_base},
        )

    def read_config(self, theirs: Any) -> tuple[str, dict[str, Any]]:
        head_width = theirs.hidden_size // theirs.num_attention_heads
        check_values(
            theirs,
            {
                "hidden_act": ("silu",),
                "attention_bias": (False,),
                "mlp_bias": (False,),
                "head_dim": (head_width, None),
            },
        )
        return "lie_trotter", {
            "feed_forward_width": theirs.intermediate_size,
            "key_value_heads": theirs.num_key_value_heads,
            "norm_epsilon": theirs.rms_norm_eps,
            **rotary_settings(theirs),
        }

    def to_theirs(self, name: str, tensor: Tensor, config: ModelConfig) -> dict[str, Tensor]:
        if name != "qkv_weight":
            return super().to_theirs(name, tensor, config)
        parts = zip("qkv", split_llama(tensor, config), strict=True)
        return {f"self_attn.{part}_proj.weight": rows for part, rows in parts}

    def to_ours(self, name: str, parts: list[Tensor], config: ModelConfig) -> Tensor:
        return torch.cat(parts)
