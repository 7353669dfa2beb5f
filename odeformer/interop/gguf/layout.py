"""Names and layout of tensors in llama.cpp, and its hyperparameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from odeformer.config import ModelConfig
from odeformer.interop.materialize import Ordinary
from odeformer.interop.qkv import neox_to_gpt2, split_llama

ARCHITECTURES = {
    ("llama", "lie_trotter"): "llama",
    ("neox", "euler"): "gptneox",
    ("neox", "lie_trotter"): "gptneox",
}
"""llama.cpp's architecture for layers of a flavour and solver."""
MODULES = {
    "attention_norm": "attn_norm",
    "qkv": "attn_qkv",
    "out": "attn_output",
    "feed_forward_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
"""llama.cpp's names of the projections and norms in a layer."""
OUTER = {
    "embedding.weight": "token_embd.weight",
    "final_norm.weight": "output_norm.weight",
    "final_norm.bias": "output_norm.bias",
    "unembedding.weight": "output.weight",
}
"""llama.cpp's names of the tensors outside the layers."""


def architecture_name(config: ModelConfig, solver: str) -> str:
    """llama.cpp's architecture for these layers.

    Raises:
        ValueError: if it has none.
    """
    name = ARCHITECTURES.get((config.flavour, solver))
    if name is None:
        able = ", ".join(f"{flavour} with {step}" for flavour, step in ARCHITECTURES)
        raise ValueError(
            f"GGUF: no layers of flavour {config.flavour!r} with solver {solver!r}; there are: {able}"
        )
    if name == "llama" and config.rotary_dimensions != config.head_width:
        raise ValueError(f"rotary_fraction {config.rotary_fraction}: llama.cpp's llama rotates whole heads")
    return name


def tensors(ordinary: Ordinary, architecture: str) -> dict[str, Tensor]:
    """The file's tensors by name, float32 on the CPU; matrices are [out, in]."""
    state = {OUTER[name]: tensor for name, tensor in ordinary.outer.items()}
    if architecture == "gptneox":  # it has no tied output matrix
        state.setdefault("output.weight", state["token_embd.weight"])
    for name, stacked in ordinary.layers.items():
        module, kind = name.rsplit("_", 1)
        for index, tensor in enumerate(stacked):
            parts = {MODULES[module]: tensor}
            if module == "qkv" and architecture == "llama":
                query, key, value = split_llama(tensor, ordinary.config)
                parts = {
                    "attn_q": _adjacent_pairs(query, ordinary.config.heads),
                    "attn_k": _adjacent_pairs(key, ordinary.config.groups),
                    "attn_v": value,
                }
            elif module == "qkv":
                parts = {"attn_qkv": neox_to_gpt2(tensor, ordinary.config.heads)}
            state |= {f"blk.{index}.{theirs}.{kind}": part for theirs, part in parts.items()}
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}


def _adjacent_pairs(rows: Tensor, heads: int) -> Tensor:
    """Query or key rows with the two that are rotated together adjacent, instead of half a head apart."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def write_shape(ordinary: Ordinary, architecture: str, writer: Any) -> None:
    """Write the hyperparameters to a ``gguf.GGUFWriter``."""
    config = ordinary.config
    writer.add_block_count(config.depth)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.hidden_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.groups)
    writer.add_vocab_size(config.vocabulary_size)
    writer.add_rope_dimension_count(config.rotary_dimensions)
    writer.add_rope_freq_base(config.rotary_base)
    if architecture == "llama":
        writer.add_layer_norm_rms_eps(config.epsilon)
    else:
        writer.add_layer_norm_eps(config.epsilon)
        writer.add_parallel_residual(ordinary.solver == "euler")
