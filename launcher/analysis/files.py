"""Inputs and outputs of analyses: the model, texts, and the folder with numbers and a page."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from odeformer.files.atomic import new_folder
from odeformer.files.checks import Earlier, check_is_there, check_replaceable
from odeformer.files.text import read_exactly

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

    from cluster.registry import Loaded
    from odeformer.analysis.content import ModelSource
    from odeformer.model import Odeformer


def open_model(model: str, adapter: str | None, tracking_uri: str | None) -> tuple[Loaded, ModelSource]:
    """Load a model, with a solver that analyses support, and describe it.

    Args:
        model, adapter: As for :func:`cluster.registry.load`.

    Raises:
        ValueError, FileNotFoundError: If the model is unknown or damaged, or the adapter has another base.
    """
    from cluster import registry
    from odeformer.analysis.flow import flow_solver

    loaded = registry.load(model, tracking_uri, adapter)
    source: ModelSource = {
        "name": model,
        "adapter": adapter,
        "versions": [version.uri for version in loaded.versions],
        "weights_sha256": weights_digest(loaded.model),
        "trained_by": loaded.model.solver,
    }
    loaded.model.options = replace(loaded.model.options, solver=flow_solver(loaded.model))
    return loaded, source


def weights_digest(model: Odeformer) -> str:
    """SHA-256 of the names, shapes, dtypes and bytes of a model's tensors, including its adapter's."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(plain.shape)} {plain.dtype}\n".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def read_text(given: str) -> str:
    """The content of the file of that name, or else the argument itself.

    Raises:
        ValueError, FileNotFoundError: If there is no text.
    """
    if 0 < len(given) < 256 and "\n" not in given:
        path = Path(given)
        if path.is_file():
            return read_file(path)
        if path.is_dir():
            raise ValueError(f"{path} is a folder: give a file, or the text itself")
        if path.suffix and not any(character.isspace() for character in given):
            raise FileNotFoundError(f"{given}: no such file; as a text it would be a single word")
    if not given.strip():
        raise ValueError("the text is empty: at least 2 tokens are needed")
    return given


def read_file(path: Path) -> str:
    """The text of a file.

    Raises:
        ValueError, FileNotFoundError: If the file is missing, not UTF-8, or blank.
    """
    check_is_there(path, "a file of UTF-8 text is expected")
    text = read_exactly(path)
    if not text.strip():
        raise ValueError(f"{path} is empty: at least 2 tokens of text are needed")
    return text


def encode(tokenizer: Tokenizer, text: str, context_length: int | None) -> Encoding:
    """Encode a text.

    Raises:
        ValueError: If there are fewer than two tokens or more than the context holds, or if the tokenizer
            lacks a character of the text.
    """
    encoding = tokenizer.encode(text)
    unknown = getattr(tokenizer.model, "unk_token", None)
    unknown_id = None if unknown is None else tokenizer.token_to_id(unknown)
    for token, (first, last) in zip(encoding.ids, encoding.offsets, strict=True):
        if token == unknown_id:
            raise ValueError(f"the model's tokenizer has no token for {text[first:last]!r}")

    # A tokenizer without an unknown token silently drops what it does not know.
    covered = set(chain.from_iterable(range(*offsets) for offsets in encoding.offsets))
    if any(place not in covered and not character.isspace() for place, character in enumerate(text)):
        raise ValueError("the model's tokenizer does not have tokens for all characters of the text")

    count = len(encoding.ids)
    if count < 2:
        raise ValueError(f"the text is {count} token: at least 2 are needed")
    if context_length is not None and count > context_length:
        raise ValueError(
            f"the text has {count:,} tokens, the model's context {context_length:,}: give a shorter one"
        )
    return encoding


def now() -> str:
    """The local time with its offset from UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


def report_of(file: str, page_file: str) -> Earlier:
    """How to recognize an earlier folder of :func:`write_report` with files of these names."""
    return Earlier("a report", (file, page_file), lambda folder: (folder / file).is_file())


def write_report(out: Path, earlier: Earlier, content: object, page: str) -> None:
    """Write a folder with ``content`` as JSON and an HTML page; only an earlier one is replaced."""
    text = json.dumps(content, allow_nan=False, ensure_ascii=False)
    file, page_file = earlier.files
    with new_folder(out, lambda: check_replaceable(out, earlier)) as folder:
        (folder / file).write_text(text + "\n", encoding="utf-8")
        (folder / page_file).write_text(page, encoding="utf-8")
