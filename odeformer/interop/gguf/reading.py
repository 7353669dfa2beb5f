"""Loading a GGUF file with other libraries, to check that the file is right."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from gguf import MODEL_ARCH, GGUFReader, dequantize, get_tensor_name_map

from odeformer.interop.hf.exporting import load_exported
from odeformer.interop.qkv import gpt2_to_neox


def load_gguf(file: Path, architecture: str) -> Any:
    """The file's model as a ``transformers`` model in float32, with the weights after quantization.

    ``llama`` is read by ``transformers`` itself. It cannot read ``gptneox``, for which the tensors are read
    by the package ``gguf``, with its table of the names that ``transformers`` uses.

    Raises:
        ValueError: for missing or unexpected tensors.
    """
    if architecture != "llama":
        return _load_neox(file)
    with redirect_stderr(io.StringIO()):  # the progress bars cannot be switched off
        return load_exported(file.parent, gguf_file=file.name, dtype=torch.float32)


def _load_neox(file: Path) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    reader = GGUFReader(file)

    def value_of(key: str) -> Any:
        field = reader.get_field(f"gptneox.{key}")
        if field is None:
            raise ValueError(f"{file}: gptneox.{key} is missing")
        return field.contents()

    heads, width = value_of("attention.head_count"), value_of("embedding_length")
    theirs = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=value_of("vocab_size"),
            hidden_size=width,
            num_hidden_layers=value_of("block_count"),
            num_attention_heads=heads,
            intermediate_size=value_of("feed_forward_length"),
            max_position_embeddings=value_of("context_length"),
            layer_norm_eps=value_of("attention.layer_norm_epsilon"),
            use_parallel_residual=value_of("use_parallel_residual"),
            rope_parameters={
                "rope_type": "default",
                "rope_theta": value_of("rope.freq_base"),
                "partial_rotary_factor": value_of("rope.dimension_count") * heads / width,
            },
        )
    )

    stored = {tensor.name: tensor for tensor in reader.tensors}
    names = get_tensor_name_map(MODEL_ARCH.GPTNEOX, value_of("block_count"))
    state = {}
    for name in theirs.state_dict():
        key = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if key not in stored:
            raise ValueError(f"{file}: {key or name} is missing")
        tensor = stored.pop(key)
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        state[name] = gpt2_to_neox(weight, heads) if "query_key_value" in name else weight
    if stored:
        raise ValueError(f"{file}: tensor {min(stored)} is unexpected")
    theirs.load_state_dict(state)
    return theirs.eval()
