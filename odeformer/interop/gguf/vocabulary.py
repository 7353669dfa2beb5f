"""A byte-level BPE ``tokenizer.json`` as llama.cpp has it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType

MODEL, SPLITTING = "gpt2", "gpt-2"
"""llama.cpp's names for byte-level BPE, and for GPT-2's regular expression that splits a text for it."""


@dataclass(frozen=True)
class Vocabulary:
    """What the file says of the tokenizer."""

    tokens: list[str]
    """By id, as many as the model has."""
    types: list[TokenType]
    merges: list[str]
    """Each two tokens with a space between."""
    end_of_text: int


def read_vocabulary(tokenizer: Path, size: int, end_of_text: str) -> Vocabulary:
    """The vocabulary of a ``tokenizer.json``.

    Args:
        tokenizer: the file.
        size: of the model's vocabulary; ids that the tokenizer does not have are filled with unused tokens.
        end_of_text: the token at which generation ends.

    Raises:
        ValueError: for a tokenizer that llama.cpp would cut a text by otherwise.
    """
    content = json.loads(tokenizer.read_text(encoding="utf-8"))
    model = content["model"]
    _check(content, model, tokenizer)
    tokens, types = [f"[PAD{i}]" for i in range(size)], [TokenType.UNUSED] * size
    for token, index in model["vocab"].items():
        tokens[index], types[index] = token, TokenType.NORMAL
    for added in content.get("added_tokens", []):
        tokens[added["id"]], types[added["id"]] = added["content"], TokenType.CONTROL
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return Vocabulary(tokens, types, merges, tokens.index(end_of_text))


def _check(content: dict[str, Any], model: dict[str, Any], tokenizer: Path) -> None:
    splitting = content.get("pre_tokenizer") or {}
    after = content.get("post_processor") or {"type": "ByteLevel"}
    kinds = {
        "model": (model.get("type"), "BPE"),
        "normalizer": ((content.get("normalizer") or {}).get("type"), None),
        "pre_tokenizer": (splitting.get("type"), "ByteLevel"),
        # It moves offsets, not tokens.
        "post_processor": (after.get("type"), "ByteLevel"),
        "pre_tokenizer.add_prefix_space": (splitting.get("add_prefix_space", True), False),
        "pre_tokenizer.use_regex": (splitting.get("use_regex", True), True),
        "added_tokens.special": (all(t["special"] for t in content.get("added_tokens", [])), True),
        **{
            f"model.{name}": (model.get(name) or None, None)
            for name in (
                "byte_fallback",
                "continuing_subword_prefix",
                "dropout",
                "end_of_word_suffix",
                "ignore_merges",
            )
        },
    }
    for part, (found, able) in kinds.items():
        if found != able:
            raise ValueError(
                f"GGUF: {tokenizer}: {part} {found!r}; only byte-level BPE that splits text as GPT-2 does "
                f"can be written ({part} {able!r})"
            )
    if not model.get("merges"):
        raise ValueError(f"GGUF: {tokenizer} has no merges: llama.cpp reads no tokenizer without one")


def write_vocabulary(vocabulary: Vocabulary, writer: Any) -> None:
    """Say it to a ``gguf.GGUFWriter``."""
    writer.add_tokenizer_model(MODEL)
    writer.add_tokenizer_pre(SPLITTING)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    # A beginning of text is never added; where none is named llama.cpp takes token 11 for it.
    writer.add_bos_token_id(vocabulary.end_of_text)
    writer.add_eos_token_id(vocabulary.end_of_text)
    writer.add_add_bos_token(False)
