"""The layers' tensors as llama.cpp names and lays them out, and the numbers it runs them by."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from odeformer.config import ModelConfig
from odeformer.interop.materialise import Ordinary

ARCHITECTURES = {
    ("llama", "lie_trotter"): "llama",
    ("neox", "euler"): "gptneox",
    ("neox", "lie_trotter"): "gptneox",
}
"""llama.cpp's name for the layers that a flavour's solver steps are."""
MODULES = {
    "attention_norm": "attn_norm",
    "qkv": "attn_qkv",
    "out": "attn_output",
    "feed_forward_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
OUTER = {
    "embedding.weight": "token_embd.weight",
    "final_norm.weight": "output_norm.weight",
    "final_norm.bias": "output_norm.bias",
    "unembedding.weight": "output.weight",
}


def architecture_name(config: ModelConfig, solver: str) -> str:
    """llama.cpp's architecture for these layers.

    Raises:
        ValueError: where it has none.
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
    """Every tensor of the file by its name, float32 on the CPU; matrices [out, in]."""
    found = {OUTER[name]: tensor for name, tensor in ordinary.outer.items()}
    if architecture == "gptneox":  # which has no tied head
        found.setdefault("output.weight", found["token_embd.weight"])
    for name, stacked in ordinary.layers.items():
        module, kind = name.rsplit("_", 1)
        for index, tensor in enumerate(stacked):
            parts = {MODULES[module]: tensor}
            if module == "qkv" and architecture == "llama":
                parts = _separate(tensor, ordinary.config)
            elif module == "qkv":
                # Ours lie side by side for each head; theirs are all queries, all keys, all values.
                parts = {
                    "attn_qkv": tensor.unflatten(0, (ordinary.config.heads, 3, -1))
                    .transpose(0, 1)
                    .flatten(0, 2)
                }
            found |= {f"blk.{index}.{theirs}.{kind}": part for theirs, part in parts.items()}
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in found.items()}


def _separate(qkv: Tensor, config: ModelConfig) -> dict[str, Tensor]:
    shared = config.groups * config.head_width
    query, key, value = qkv.split([config.width, shared, shared])
    return {
        "attn_q": _by_pairs(query, config.heads),
        "attn_k": _by_pairs(key, config.groups),
        "attn_v": value,
    }


def _by_pairs(rows: Tensor, heads: int) -> Tensor:
    """Rows that are rotated together, next to each other.

    Ours, and those of ``transformers``, are half a head apart.
    """
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def write_shape(ordinary: Ordinary, architecture: str, writer: Any) -> None:
    """Say to a ``gguf.GGUFWriter`` what shape the layers are of."""
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
