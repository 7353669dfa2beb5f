"""GPT2LMHeadModel: Lie–Trotter on the ``paper`` flavour; with Euler its branches would be parallel."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from odeformer.config import ModelConfig
from odeformer.interop.hf.architectures.layout import Architecture, check_values, shape_settings
from odeformer.interop.materialize import Ordinary
from odeformer.interop.qkv import gpt2_to_neox, neox_to_gpt2


class GPT2(Architecture):
    """GPT-2, with matrices [in, out] and a fused projection to all queries, all keys, all values."""

    name = "GPT2LMHeadModel"
    model_type = "gpt2"
    flavour = "paper"
    solvers = ("lie_trotter",)
    layer = "transformer.h.{}."
    modules: ClassVar = {
        "attention_norm": "ln_1",
        "qkv": "attn.c_attn",
        "out": "attn.c_proj",
        "feed_forward_norm": "ln_2",
        "up": "mlp.c_fc",
        "down": "mlp.c_proj",
    }
    outer: ClassVar = {
        "embedding.weight": "transformer.wte.weight",
        "positions.weight": "transformer.wpe.weight",
        "final_norm.weight": "transformer.ln_f.weight",
        "final_norm.bias": "transformer.ln_f.bias",
    }
    head = "lm_head.weight"
    transposed = True
    buffers = (".attn.bias", ".attn.masked_bias")

    def to_config(self, ordinary: Ordinary) -> Any:
        from transformers import GPT2Config

        config = ordinary.config
        return GPT2Config(
            **shape_settings(ordinary),
            architectures=[self.name],
            n_inner=config.hidden_width,
            layer_norm_epsilon=config.epsilon,
            **{f"{part}_pdrop": config.dropout_rate for part in ("resid", "embd", "attn")},
        )

    def read_config(self, theirs: Any) -> tuple[str, dict[str, Any]]:
        check_values(
            theirs,
            {
                "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
                "scale_attn_weights": (True,),
                "scale_attn_by_inverse_layer_idx": (False,),
                "add_cross_attention": (False,),
            },
        )
        return "lie_trotter", {
            "feed_forward_width": theirs.n_inner or 4 * theirs.hidden_size,
            "norm_epsilon": theirs.layer_norm_epsilon,
            "dropout": theirs.resid_pdrop,
        }

    def to_theirs(self, name: str, tensor: Tensor, config: ModelConfig) -> dict[str, Tensor]:
        if name.startswith("qkv"):
            tensor = neox_to_gpt2(tensor, config.heads)
        return super().to_theirs(name, tensor.T if tensor.ndim == 2 else tensor, config)

    def to_ours(self, name: str, parts: list[Tensor], config: ModelConfig) -> Tensor:
        tensor = super().to_ours(name, parts, config)
        tensor = tensor.T if tensor.ndim == 2 else tensor
        return gpt2_to_neox(tensor, config.heads) if name.startswith("qkv") else tensor
