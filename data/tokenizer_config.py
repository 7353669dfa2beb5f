"""The file ``tokenizer_config.json`` of ``transformers``, which belongs to a ``tokenizer.json``.

The model itself does not need it. It is copied along with the tokenizer, so that an export has the special
tokens and the chat template of the original checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.tokenizer import end_of_text, load_tokenizer

CONFIG_NAME = "tokenizer_config.json"
TOKENS = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
OTHERS = ("additional_special_tokens", "extra_special_tokens", "chat_template", "split_special_tokens")


def tokenizer_config(tokenizer: Path, end: str | None = None) -> bytes | None:
    """The content of a ``tokenizer_config.json`` for a tokenizer, None if nothing is known about it.

    Args:
        tokenizer: the ``tokenizer.json``, or its folder. The files of ``transformers`` beside it, where there
            are any, say which special tokens and chat template it has.
        end: the end-of-text token, if it cannot be detected.

    Raises:
        FileNotFoundError, ValueError: as :func:`data.tokenizer.load_tokenizer`; for a file that is not JSON.
    """
    loaded = load_tokenizer(tokenizer, end)
    folder = tokenizer if tokenizer.is_dir() else tokenizer.parent
    given = _read(folder / "special_tokens_map.json") | _read(folder / CONFIG_NAME)
    content = {key: given[key] for key in OTHERS if given.get(key) is not None}
    if (folder / "chat_template.jinja").is_file():
        content["chat_template"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")

    ids = _read(folder / "config.json")
    for name in TOKENS:
        token = given.get(name)
        if token is None and isinstance(number := ids.get(f"{name}_id"), int):
            token = loaded.id_to_token(number)
        if isinstance(token, dict):
            token = token.get("content")
        # A token that the vocabulary lacks would be added behind its end, where the model has no row.
        if isinstance(token, str) and loaded.token_to_id(token) is not None:
            content[name] = token
    if not content:
        return None
    content = {"eos_token": end_of_text(loaded)} | content
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")


def _read(file: Path) -> dict[str, Any]:
    """The content of a JSON file; nothing if there is none."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not valid JSON ({error})") from None
    return content if isinstance(content, dict) else {}
