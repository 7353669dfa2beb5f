"""A GGUF file as a model of ``transformers``: loaded by others' code, to see that the file is right."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from gguf import MODEL_ARCH, GGUFReader, dequantize, get_tensor_name_map


def load_gguf(file: Path, architecture: str) -> Any:
    """The file's model in float32, weights as they are after rounding.

    ``llama`` is read by ``transformers`` itself. ``gptneox`` it does not know: that is read by the package
    ``gguf``, under the names that it has for the tensors of ``transformers``.

    Raises:
        ValueError: for tensors that are missing or not known.
    """
    return _by_transformers(file) if architecture == "llama" else _neox(file)


def _by_transformers(file: Path) -> Any:
    from transformers import AutoModelForCausalLM

    # Its progress bars for such a file cannot be switched off.
    with redirect_stderr(io.StringIO()):
        theirs, found = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
    wrong = sorted([*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]])
    if wrong:
        raise ValueError(f"{file}: transformers does not find its tensors: {wrong[0]}")
    return theirs.eval()


def _neox(file: Path) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    reader = GGUFReader(file)

    def said(key: str) -> Any:
        field = reader.get_field(f"gptneox.{key}")
        if field is None:
            raise ValueError(f"{file}: gptneox.{key} is missing")
        return field.contents()

    heads, width = said("attention.head_count"), said("embedding_length")
    theirs = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=said("vocab_size"),
            hidden_size=width,
            num_hidden_layers=said("block_count"),
            num_attention_heads=heads,
            intermediate_size=said("feed_forward_length"),
            max_position_embeddings=said("context_length"),
            layer_norm_eps=said("attention.layer_norm_epsilon"),
            use_parallel_residual=said("use_parallel_residual"),
            rope_parameters={
                "rope_type": "default",
                "rope_theta": said("rope.freq_base"),
                "partial_rotary_factor": said("rope.dimension_count") * heads / width,
            },
        )
    )
    given = {tensor.name: tensor for tensor in reader.tensors}
    names = get_tensor_name_map(MODEL_ARCH.GPTNEOX, said("block_count"))
    state = {}
    for name in theirs.state_dict():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known not in given:
            raise ValueError(f"{file}: {known or name} is missing")
        tensor = given.pop(known)
        value = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        if "query_key_value" in name:
            value = value.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)
        state[name] = value
    if given:
        raise ValueError(f"{file}: {min(given)} is not known")
    theirs.load_state_dict(state)
    return theirs.eval()
