"""Read the text that is to be analysed, and encode it with the model's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


def read_text(given: str) -> str:
    """The text of a file, where there is one of that name, or what was given."""
    if 0 < len(given) < 256 and "\n" not in given:
        path = Path(given)
        if path.is_file():
            given = read_file(path)
        elif path.is_dir():
            raise ValueError(f"{path} is a folder: give a file, or the text itself")
        elif path.suffix and not any(character.isspace() for character in given):
            raise FileNotFoundError(f"{given} is no file; as a text it would be a single word")
    if not given.strip():
        raise ValueError("the text is empty: at least 2 tokens are needed")
    return given


def read_file(path: Path) -> str:
    """The text of a file.

    Raises:
        ValueError: for one that is not UTF-8, or has nothing but spaces.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: convert it") from None
    if not text.strip():
        raise ValueError(f"{path} is empty: at least 2 tokens of text are needed")
    return text


def encode(tokenizer: Tokenizer, text: str, context_length: int | None) -> Encoding:
    """The text's tokens.

    Raises:
        ValueError: for more than fit the context, fewer than two, or characters without a token.
    """
    encoding = tokenizer.encode(text, add_special_tokens=False)
    unknown = getattr(tokenizer.model, "unk_token", None)
    unknown_id = None if unknown is None else tokenizer.token_to_id(unknown)
    for token, (first, last) in zip(encoding.ids, encoding.offsets, strict=True):
        if token == unknown_id:
            raise ValueError(f"the model's tokenizer has no token for {text[first:last]!r}")
    # One without a token for what it does not know leaves it out, and does not say where.
    covered = {place for first, last in encoding.offsets for place in range(first, last)}
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
