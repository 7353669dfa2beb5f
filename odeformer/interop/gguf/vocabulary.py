"""A byte-level BPE ``tokenizer.json`` in llama.cpp's format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType

MODEL, SPLITTING = "gpt2", "gpt-2"
"""llama.cpp's names of byte-level BPE and of GPT-2's pre-tokenizer."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer as stored in a GGUF file."""

    tokens: list[str]
    """The tokens by id, as many as the model's vocabulary has."""
    types: list[TokenType]
    """The type of each token."""
    merges: list[str]
    """The BPE merges, each as two tokens separated by a space."""
    end_of_text: int
    """The id of the end-of-text token."""


def read_vocabulary(tokenizer: Path, size: int, end_of_text: str) -> Vocabulary:
    """The vocabulary of a ``tokenizer.json``.

    Args:
        tokenizer: the file.
        size: size of the model's vocabulary; ids that the tokenizer lacks are filled with unused tokens.
        end_of_text: the token at which generation ends.

    Raises:
        ValueError: for a tokenizer that llama.cpp cannot reproduce.
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
    pre_tokenizer = content.get("pre_tokenizer") or {}
    # A byte-level post-processor changes offsets only, not tokens, and a template may put none around a text:
    # transformers writes such a template into tokenizers that had none.
    post_processor = content.get("post_processor") or {"type": "ByteLevel"}
    if all("Sequence" in part for part in post_processor.get("single", [{}])):
        post_processor = {"type": "ByteLevel"}
    values = {
        "model": (model.get("type"), "BPE"),
        "normalizer": ((content.get("normalizer") or {}).get("type"), None),
        "pre_tokenizer": (pre_tokenizer.get("type"), "ByteLevel"),
        "post_processor": (post_processor.get("type"), "ByteLevel"),
        "pre_tokenizer.add_prefix_space": (pre_tokenizer.get("add_prefix_space", True), False),
        "pre_tokenizer.use_regex": (pre_tokenizer.get("use_regex", True), True),
        "added_tokens.special": (all(t["special"] for t in content.get("added_tokens", [])), True),
    }
    for name in (
        "byte_fallback",
        "continuing_subword_prefix",
        "dropout",
        "end_of_word_suffix",
        "ignore_merges",
    ):
        values[f"model.{name}"] = (model.get(name) or None, None)
    for part, (value, expected) in values.items():
        if value != expected:
            raise ValueError(
                f"GGUF: {tokenizer}: {part} {value!r}; only byte-level BPE that splits text as GPT-2 does "
                f"can be written ({part} {expected!r})"
            )
    if not model.get("merges"):
        raise ValueError(f"GGUF: {tokenizer} has no merges: llama.cpp reads no tokenizer without one")


def write_vocabulary(vocabulary: Vocabulary, writer: Any) -> None:
    """Write a vocabulary to a ``gguf.GGUFWriter``."""
    writer.add_tokenizer_model(MODEL)
    writer.add_tokenizer_pre(SPLITTING)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    # No beginning-of-text token is ever added, but if none is named llama.cpp assumes token 11.
    writer.add_bos_token_id(vocabulary.end_of_text)
    writer.add_eos_token_id(vocabulary.end_of_text)
    writer.add_add_bos_token(False)
