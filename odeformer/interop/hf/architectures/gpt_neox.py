"""GPTNeoXForCausalLM, Pythia's class: Euler for parallel branches, Lie–Trotter for sequential ones."""

from __future__ import annotations

from typing import Any, ClassVar

from odeformer.interop.hf.architectures.layout import (
    Architecture,
    check_values,
    rotary_settings,
    shape_settings,
)
from odeformer.interop.materialize import Ordinary


class GPTNeoX(Architecture):
    """GPT-NeoX, with this package's layout: the rows of each head's query, key and value are adjacent."""

    name = "GPTNeoXForCausalLM"
    model_type = "gpt_neox"
    flavour = "neox"
    solvers = ("euler", "lie_trotter")
    layer = "gpt_neox.layers.{}."
    modules: ClassVar = {
        "attention_norm": "input_layernorm",
        "qkv": "attention.query_key_value",
        "out": "attention.dense",
        "feed_forward_norm": "post_attention_layernorm",
        "up": "mlp.dense_h_to_4h",
        "down": "mlp.dense_4h_to_h",
    }
    outer: ClassVar = {
        "embedding.weight": "gpt_neox.embed_in.weight",
        "final_norm.weight": "gpt_neox.final_layer_norm.weight",
        "final_norm.bias": "gpt_neox.final_layer_norm.bias",
    }
    head = "embed_out.weight"
    buffers = (".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq")

    def to_config(self, ordinary: Ordinary) -> Any:
        from transformers import GPTNeoXConfig

        config = ordinary.config
        return GPTNeoXConfig(
            **shape_settings(ordinary),
            architectures=[self.name],
            intermediate_size=config.hidden_width,
            use_parallel_residual=ordinary.solver == "euler",
            layer_norm_eps=config.epsilon,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": config.rotary_base,
                "partial_rotary_factor": config.rotary_dimensions / config.head_width,
            },
        )

    def read_config(self, theirs: Any) -> tuple[str, dict[str, Any]]:
        check_values(theirs, {"hidden_act": ("gelu",), "attention_bias": (True,)})
        return "euler" if theirs.use_parallel_residual else "lie_trotter", {
            "feed_forward_width": theirs.intermediate_size,
            "norm_epsilon": theirs.layer_norm_eps,
            **rotary_settings(theirs),
        }
