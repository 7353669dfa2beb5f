"""Models of other libraries that several benchmarks compare with."""

from __future__ import annotations

from torch import nn


def gpt_neox(width: int, heads: int, depth: int, vocabulary: int, length: int) -> nn.Module:
    """GPT-NeoX of ``transformers`` with torch's attention kernel, its embedding tied as ours."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        max_position_embeddings=length,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        use_cache=False,
    )
    return GPTNeoXForCausalLM(config)
