"""Checks of files that somebody else may have written, before any of them is opened by a parser.

A folder of ours holds JSON, safetensors and text, and nothing that could run: no pickle, no link.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

HARMLESS = (".json", ".safetensors", ".md", ".txt")
"""Endings of the files that a version may be made of."""
LARGEST_HEADER = 16 * 2**20
"""Bytes of a safetensors file's description of its tensors: some 100,000 of them."""
LARGEST_JSON = 2**20
"""Bytes of a configuration; a tokenizer's file may be larger."""
LARGEST_TOKENIZER = 256 * 2**20

BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 8),
}


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but plain files of kinds that nothing can be run from.

    Raises:
        FileNotFoundError: when there is no such folder.
        ValueError: naming the file, and what it is.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; a checkpoint or adapter folder is expected")
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            raise ValueError(f"{path} is a symbolic link to {path.readlink()}: only plain files are opened")
        if not path.is_file():
            raise ValueError(f"{path} is a folder or no plain file: remove it")
        if path.name.startswith(".") or path.suffix not in HARMLESS:
            raise ValueError(
                f"{path}: a model is made of {', '.join(HARMLESS)} files alone, since others, such as "
                "pickles, can run code when they are opened: remove it"
            )
        if path.suffix == ".json":
            check_json(path)
        if path.suffix == ".safetensors":
            check_tensors(path)


def check_json(path: Path) -> None:
    """Refuse a JSON file that is too large to be what it should be.

    Raises:
        ValueError: with both sizes.
    """
    size = path.stat().st_size
    limit = LARGEST_TOKENIZER if path.name == "tokenizer.json" else LARGEST_JSON
    if size > limit:
        raise ValueError(f"{path} has {size:,} bytes; at most {limit:,} are read")


def check_tensors(path: Path) -> None:
    """Refuse a safetensors file whose header does not describe exactly the bytes that follow it.

    The format: 8 bytes with the header's length, little-endian; the header, JSON; the tensors' bytes
    (https://huggingface.co/docs/safetensors). Nothing is allocated for a tensor here.

    Raises:
        ValueError: saying what does not fit.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise ValueError(
                f"{path}: not a whole safetensors file (a header of {length:,} bytes in a file of {size:,})"
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise ValueError(f"{path}: not a whole safetensors file (its header is no JSON)") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: not a whole safetensors file (its header is no object)")
    header.pop("__metadata__", None)
    spans = sorted(_span(path, name, tensor) for name, tensor in header.items())
    end = 0
    for start, stop in spans:
        if start != end:
            raise ValueError(f"{path}: not a whole safetensors file (its tensors overlap or leave gaps)")
        end = stop
    if end != size - 8 - length:
        raise ValueError(
            f"{path}: not a whole safetensors file (tensors of {end:,} bytes, "
            f"of which {size - 8 - length:,} are there)"
        )


def _span(path: Path, name: str, tensor: object) -> tuple[int, int]:
    """The bytes that a tensor takes, when they are as many as its shape needs."""
    try:
        assert isinstance(tensor, dict)
        shape, (start, stop) = tensor["shape"], tensor["data_offsets"]
        assert all(type(number) is int and number >= 0 for number in (*shape, start, stop))
        fits = 8 * (stop - start) == BITS[tensor["dtype"]] * math.prod(shape)
    except (AssertionError, KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path}: not a whole safetensors file (tensor {name[:80]!r} is malformed)"
        ) from None
    if not fits:
        raise ValueError(
            f"{path}: not a whole safetensors file (tensor {name[:80]!r} of shape {shape} in "
            f"{stop - start:,} bytes)"
        )
    return start, stop
