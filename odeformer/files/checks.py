"""Checks of input and output paths, made before any work is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

CHECKPOINT_EXPECTED = "a checkpoint folder is expected"
TRANSFORMERS_EXPECTED = "a checkpoint folder of transformers is expected"


def check_is_there(file: Path, instead: str) -> None:
    """Refuse a missing file.

    Raises:
        FileNotFoundError: naming the file, and what should have been given instead.
    """
    if not file.is_file():
        found = ", not an adapter" if file.with_name("adapter.json").is_file() else ""
        raise FileNotFoundError(f"{file}: no such file; {instead}{found}")


class Earlier(NamedTuple):
    """How to recognize an earlier output of a command, which may be replaced."""

    what: str
    files: tuple[str, ...]
    """Patterns of the names of all files that it may consist of."""
    is_ours: Callable[[Path], bool]
    """Whether a folder of such files is one: other programs use the same names."""


def _is_checkpoint(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and {"format_version", "model", "solver"} <= config.keys()


def _is_export(folder: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        for file in folder.glob("*.safetensors"):
            with safe_open(file, framework="numpy") as opened:
                return (opened.metadata() or {}).get("made_by") == MADE_BY["made_by"]
    except SafetensorError:
        pass
    return False


def _is_for_vllm(folder: Path) -> bool:
    script = folder / "serve.sh"
    if not script.is_file() or SCRIPT_LINE not in script.read_text(encoding="utf-8", errors="replace"):
        return False
    exports = [*folder.glob("depth-*"), *folder.glob("adapters-*/*")]
    try:
        for export in exports:
            check_replaceable(export, EXPORT)
    except ValueError:
        return False
    return all(export.is_dir() for export in exports)


SCRIPT_LINE = "Written by odeformer models export --serve."
"""What a script says by which folders for vLLM are told from others."""
MADE_BY = {"made_by": "odeformer"}
"""Metadata of exported weights that distinguish an export from another program's checkpoint."""
CHECKPOINT = Earlier("a checkpoint", ("config.json", "model.safetensors", "tokenizer*.json"), _is_checkpoint)
ADAPTER = Earlier(
    "an adapter", ("adapter.json", "adapter.safetensors"), lambda folder: (folder / "adapter.json").is_file()
)
EXPORT = Earlier(
    "an export",
    (
        *("model.safetensors", "config.json", "generation_config.json", "README.md", "chat_template.jinja"),
        *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json"),
        *("adapter_model.safetensors", "adapter_config.json", "odeformer.json"),
    ),
    _is_export,
)
FOR_VLLM = Earlier("an export for vLLM", ("serve.sh", "depth-*", "adapters-*"), _is_for_vllm)


def is_our_gguf(file: Path) -> bool:
    """Whether a file is a GGUF file that this program wrote."""
    with file.open("rb") as opened:
        start = opened.read(4096)
    return start.startswith(b"GGUF") and b"general.quantized_by" in start and b"odeformer" in start


def check_output(
    folder: Path, sources: Iterable[Path], overwrite: bool, earlier: Earlier, option: str = "--out"
) -> None:
    """Refuse an output folder where writing would destroy something.

    Args:
        folder: the folder.
        sources: folders that are read.
        overwrite: whether an earlier output may be replaced.
        earlier: what an earlier output looks like.
        option: the option that named the folder.

    Raises:
        ValueError: for a file, the current folder, one of the ``sources`` that are read, a non-empty folder
        without ``overwrite``, or with it one that holds anything but an earlier output.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give another {option}")
    if any(folder.resolve() == source.resolve() for source in sources):
        raise ValueError(f"{folder} is the folder to read from: give another {option}")
    if folder.resolve() == Path.cwd():
        raise ValueError(f"{folder} is the current folder: give {option} the name of a new one")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ValueError(f"{folder} is there already: give another {option}, or --overwrite to replace it")
    check_replaceable(folder, earlier)


def check_replaceable(folder: Path, earlier: Earlier) -> None:
    """Refuse to replace a folder that holds anything but an earlier output.

    Raises:
        ValueError: naming what else it holds.
    """
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    strange = [name for name in found if not any(fnmatch(name, pattern) for pattern in earlier.files)]
    if strange:
        raise ValueError(
            f"{folder} holds {strange[0]!r}, which is no part of {earlier.what} that this program wrote: "
            "give another folder, or remove it yourself"
        )
    if found and not earlier.is_ours(folder):
        raise ValueError(
            f"{folder} is not {earlier.what} that this program wrote: choose another, or remove it yourself"
        )


def check_output_file(
    file: Path, sources: Iterable[Path], overwrite: bool, is_ours: Callable[[Path], bool]
) -> None:
    """Refuse an output file where writing would destroy something.

    Raises:
        ValueError: for a folder, a file in one of the ``sources`` that are read, an existing file without
            ``overwrite``, or with it one that ``is_ours`` does not recognize as an earlier output.
    """
    if file.is_dir():
        raise ValueError(f"{file} is a folder: give --out a file's name")
    if any(file.resolve().parent == source.resolve() for source in sources):
        raise ValueError(f"{file.parent} is the folder to read from: give another --out")
    if file.exists() and not overwrite:
        raise ValueError(f"{file} is there already: give another --out, or --overwrite to replace it")
    if file.exists() and not is_ours(file):
        raise ValueError(f"{file} was not written by this program: give another --out, or remove it yourself")
