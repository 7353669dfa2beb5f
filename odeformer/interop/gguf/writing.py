"""Write any depth of a model as a GGUF file, in full, half or 8-bit precision."""

from __future__ import annotations

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
from odeformer.interop.materialise import Ordinary, materialise
from odeformer.model import Odeformer

PRECISIONS = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
"""What matrices are stored as; vectors are float32 in every file, as llama.cpp wants them."""


@dataclass(frozen=True)
class Written:
    """What became of the model in the file."""

    difference: float
    """Of its logits from the model's own, the largest, over their standard deviation."""
    in_half: int
    """Matrices of a ``q8_0`` file whose rows are no whole number of its blocks of 32: they are ``f16``."""


def export_gguf(
    model: Odeformer,
    tokenizer: Path,
    depth: int | None,
    precision: str,
    name: str,
    file: Path,
    end_of_text: str,
) -> Written:
    """Write the model at this depth as a GGUF file.

    Args:
        model: an attached adapter is merged. Its layers are its solver's steps where those are ordinary
            layers, else those of its flavour's default solver.
        tokenizer: the ``tokenizer.json`` that belongs to it.
        depth: N; the model depth when not given.
        precision: a key of ``PRECISIONS``.
        name: what the file says that it is.
        file: written whole or not at all; one that is there is replaced.
        end_of_text: the token at which generation ends.

    Raises:
        ValueError: for layers or a tokenizer that llama.cpp does not have, too small a depth, or a file
            that, loaded by others, does not give the logits of the model with rounded weights.
    """
    ordinary = materialise(model, depth)
    architecture = architecture_name(ordinary.config, ordinary.solver)
    assert ordinary.config.vocabulary_size is not None
    vocabulary = read_vocabulary(tokenizer, ordinary.config.vocabulary_size, end_of_text)
    kind, file_type = PRECISIONS[precision]
    ids, found, in_half = sample_ids(model.config), 0.0, 0
    with new_file(file) as target:
        writer = GGUFWriter(target, architecture)
        writer.add_name(name)
        writer.add_file_type(file_type)
        write_shape(ordinary, architecture, writer)
        write_vocabulary(vocabulary, writer)
        for key, tensor in tensors(ordinary, architecture).items():
            stored = stored_as(tensor.shape, kind)
            in_half += tensor.ndim == 2 and stored != kind
            writer.add_tensor(key, quantize(tensor.numpy(), stored), raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with torch.no_grad():
            seen = load_gguf(target, architecture)(ids).logits
            check_rounding(seen, rounded(ordinary, kind).model()(ids).logits)
        found = difference(seen, own_logits(model, depth, ordinary.solver, ids))
    return Written(found, in_half)


def stored_as(shape: torch.Size, kind: GGMLQuantizationType) -> GGMLQuantizationType:
    """What a tensor of this shape is stored as in a file of this kind."""
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    block, _ = GGML_QUANT_SIZES[kind]
    return kind if shape[-1] % block == 0 else GGMLQuantizationType.F16


def rounded(ordinary: Ordinary, kind: GGMLQuantizationType) -> Ordinary:
    """The same transformer with the weights that a file of this kind holds."""

    def of(tensor: Tensor) -> Tensor:
        array = tensor.detach().float().cpu().numpy()
        stored = stored_as(tensor.shape, kind)
        return torch.from_numpy(dequantize(quantize(array, stored), stored))

    return replace(
        ordinary,
        layers={name: torch.stack([of(w) for w in stacked]) for name, stacked in ordinary.layers.items()},
        outer={name: of(w) for name, w in ordinary.outer.items()},
    )
