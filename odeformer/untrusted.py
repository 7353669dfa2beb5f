"""Checks of untrusted checkpoint files, made before a parser opens them.

A checkpoint folder holds JSON, safetensors and text, and nothing that can execute code: no pickles, no links.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

HARMLESS = (".json", ".safetensors", ".md", ".txt")
"""Suffixes of the files that a model version may consist of."""
LARGEST_JSON = 2**20
"""Maximum bytes of a JSON file other than ``tokenizer.json``."""
LARGEST_TOKENIZER = 256 * 2**20
"""Maximum bytes of ``tokenizer.json``."""


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but plain files of types that cannot execute code.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: naming the first file that is refused, and why.
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
                f"{path}: only {', '.join(HARMLESS)} files are allowed in a model, since others, such as "
                "pickles, can run code when they are opened: remove it"
            )
        if path.suffix == ".json":
            check_json(path)
        if path.suffix == ".safetensors":
            _check_header(path)


def check_json(path: Path) -> None:
    """Refuse an implausibly large JSON file.

    Raises:
        ValueError: with its size and the limit.
    """
    size = path.stat().st_size
    limit = LARGEST_TOKENIZER if path.name == "tokenizer.json" else LARGEST_JSON
    if size > limit:
        raise ValueError(f"{path} has {size:,} bytes; at most {limit:,} are read")


def _check_header(path: Path) -> None:
    # Opening reads only the header, which must describe exactly the bytes that follow it.
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error!s:.200})") from None
