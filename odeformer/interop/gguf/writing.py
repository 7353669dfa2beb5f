"""Export of a model at any depth to a GGUF file, in float32, float16 or 8-bit precision."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType, dequantize, quantize
from torch import Tensor

from odeformer.files.atomic import new_file
from odeformer.interop.comparing import check_rounding, difference, own_logits, sample_ids
from odeformer.interop.gguf.layout import architecture_name, tensors, write_shape
from odeformer.interop.gguf.reading import load_gguf
from odeformer.interop.gguf.vocabulary import read_vocabulary, write_vocabulary
from odeformer.interop.materialize import Ordinary, materialize
from odeformer.model import Odeformer

PRECISIONS = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
"""Data types of matrices. Vectors are float32 in every file, as llama.cpp requires."""


@dataclass(frozen=True)
class Written:
    """The accuracy of an exported file."""

    difference: float
    """Largest difference of its logits from the model's own, relative to their standard deviation."""
    in_half: int
    """Number of matrices of a ``q8_0`` file stored as ``f16``, since their rows are not multiples of 32."""


def export_gguf(
    model: Odeformer,
    tokenizer: Path,
    depth: int | None,
    precision: str,
    name: str,
    file: Path,
    end_of_text: str,
    chat_template: str | None = None,
) -> Written:
    """Write a model at one depth as a GGUF file, after checking the file's logits.

    Args:
        model: the model; an attached adapter is merged. See
            :func:`~odeformer.interop.materialize.materialize` about its solver.
        tokenizer: the model's ``tokenizer.json``.
        depth: N; the model depth when not given.
        precision: a key of ``PRECISIONS``.
        name: the model name in the file.
        file: the file, which is written atomically and replaced if it exists.
        end_of_text: the token at which generation ends.
        chat_template: the template of conversations, if there is one.

    Raises:
        ValueError: for layers or a tokenizer that llama.cpp does not support, too small a depth, or a file
            whose logits, as loaded by other libraries, are not those of the model with rounded weights.
    """
    ordinary = materialize(model, depth)
    architecture = architecture_name(ordinary.config, ordinary.solver)
    assert ordinary.config.vocabulary_size is not None
    vocabulary = read_vocabulary(tokenizer, ordinary.config.vocabulary_size, end_of_text)
    kind, file_type = PRECISIONS[precision]

    in_half = 0
    with new_file(file) as target:
        writer = GGUFWriter(target, architecture)
        writer.add_quantized_by("odeformer")  # by which is_our_gguf recognizes the file
        writer.add_name(name)
        writer.add_file_type(file_type)
        write_shape(ordinary, architecture, writer)
        write_vocabulary(vocabulary, writer)
        if chat_template is not None:  # without the marks of what is learned, which no other program knows
            writer.add_chat_template(re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", chat_template))
        for key, tensor in tensors(ordinary, architecture).items():
            stored = stored_as(tensor.shape, kind)
            in_half += tensor.ndim == 2 and stored != kind
            writer.add_tensor(key, quantize(tensor.numpy(), stored), raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

        ids = sample_ids(model.config)
        with torch.no_grad():
            logits = load_gguf(target, architecture)(ids).logits
            check_rounding(logits, rounded(ordinary, kind).model()(ids).logits)
        return Written(difference(logits, own_logits(model, depth, ordinary.solver, ids)), in_half)


def stored_as(shape: torch.Size, kind: GGMLQuantizationType) -> GGMLQuantizationType:
    """The data type in which a file of type ``kind`` stores a tensor of this shape."""
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    block, _ = GGML_QUANT_SIZES[kind]
    return kind if shape[-1] % block == 0 else GGMLQuantizationType.F16


def rounded(ordinary: Ordinary, kind: GGMLQuantizationType) -> Ordinary:
    """The transformer with its weights rounded as in a file of type ``kind``."""

    def stored(tensor: Tensor) -> Tensor:
        array = tensor.detach().float().cpu().numpy()
        data_type = stored_as(tensor.shape, kind)
        return torch.from_numpy(dequantize(quantize(array, data_type), data_type))

    return replace(
        ordinary,
        layers={name: torch.stack([*map(stored, stacked)]) for name, stacked in ordinary.layers.items()},
        outer={name: stored(tensor) for name, tensor in ordinary.outer.items()},
    )
