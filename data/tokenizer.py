"""Training and loading of byte-level BPE tokenizers."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from odeformer.files.errors import panics_are_errors, reason

END_OF_TEXT = "<|endoftext|>"
"""The end-of-text token of the tokenizers trained here."""
OTHER_ENDS = ("</s>", "<|end_of_text|>", "<eos>")
"""End-of-text tokens of other tokenizers, tried in this order if the file does not name one."""
FILE_NAME = "tokenizer.json"
LARGEST_GROWTH = 64
"""How many times as long a tokenizer of somebody else may make a text."""
LONGEST_CHARACTER = 64
"""Bytes of the longest text that a Unicode form puts for a character, with room to spare."""
LONGEST_WORD = 1000
"""Characters of a word in training, whose time grows with the square of a word's length."""
_LONG = re.compile(rf"\S{{{LONGEST_WORD}}}|\s{{{LONGEST_WORD}}}")
_LONG_WORD = re.compile(
    "|".join(f"(?:{kind}){{{LONGEST_WORD}}}" for kind in (r"[^\W_]", r"\s", r"[^\w\s]|_"))
)
SMALLEST_VOCABULARY = 257
"""The size of a vocabulary of all bytes and end-of-text."""


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer, which reproduces any text exactly.

    The same texts give the same tokenizer. A small corpus gives fewer than ``vocabulary_size`` tokens.

    Raises:
        ValueError: for a vocabulary that cannot hold every byte.
    """
    check_vocabulary_size(vocabulary_size)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_in_short_words(texts), trainer)
    return _for_plain_text(tokenizer)


def _in_short_words(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts; those with longer words than ``LONGEST_WORD`` are cut within these."""
    for text in texts:
        if _LONG.search(text):
            cuts = [0, *(word.end() for word in _LONG_WORD.finditer(text)), len(text)]
            yield from (text[start:end] for start, end in pairwise(cuts))
        else:
            yield text


def check_vocabulary_size(vocabulary_size: int) -> None:
    """Refuse a vocabulary that cannot hold every byte and end-of-text.

    Raises:
        ValueError: naming the smallest size.
    """
    if vocabulary_size < SMALLEST_VOCABULARY:
        raise ValueError(
            f"vocabulary_size is {vocabulary_size}, but it must be at least "
            f"{SMALLEST_VOCABULARY} = 256 bytes + end-of-text: choose a larger one"
        )


def load_tokenizer(path: Path, end_of_text: str | None = None) -> Tokenizer:
    """Load a tokenizer.json.

    Args:
        path: the file, or a folder with it.
        end_of_text: the end-of-text token, if it cannot be detected.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it is damaged, has no end-of-text token, or has gaps in its ids (the model's embedding
            needs ids 0 … size − 1).
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: give a {FILE_NAME} or a folder with one")
    try:
        with panics_are_errors():
            tokenizer = from_json(file.read_bytes())
    except Exception as error:  # noqa: BLE001 (the library raises nothing narrower)
        raise ValueError(f"{file} is not a readable {FILE_NAME} ({reason(error)}): rebuild it") from None
    for part in (tokenizer.normalizer, tokenizer.decoder):
        if part is not None and (times := _growth(json.loads(part.__getstate__()))) > LARGEST_GROWTH:
            raise ValueError(
                f"{file} can make a text {times:,.0f} times as long, and at most {LARGEST_GROWTH} times is "
                "allowed: give another tokenizer"
            )
    vocabulary = tokenizer.get_vocab()
    if max(vocabulary.values(), default=-1) != len(vocabulary) - 1:
        raise ValueError(
            f"{file} has {len(vocabulary)} tokens but ids up to {max(vocabulary.values())}: "
            "give a tokenizer without holes in its ids"
        )
    if end_of_text is not None:
        if end_of_text not in vocabulary:
            raise ValueError(f"{file} has no token {end_of_text!r}: name one that it has as end of text")
        _set_end_of_text(tokenizer, end_of_text)
    elif _end_of_text_id(tokenizer) is None:
        raise ValueError(
            f"{file} has no {END_OF_TEXT} token, nor {', '.join(OTHER_ENDS)}: name the one that ends texts"
        )
    return tokenizer


def from_json(data: bytes) -> Tokenizer:
    """The tokenizer in the content of a tokenizer.json."""
    return _for_plain_text(Tokenizer.from_str(data.decode("utf-8")))


def to_json(tokenizer: Tokenizer) -> bytes:
    """The content of a tokenizer.json."""
    return (tokenizer.to_str(pretty=True) + "\n").encode("utf-8")


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """The id of the end-of-text token.

    Raises:
        ValueError: if there is none.
    """
    token = _end_of_text_id(tokenizer)
    if token is None:
        raise ValueError(f"the tokenizer has no {END_OF_TEXT} token: train one here")
    return token


def end_of_text(tokenizer: Tokenizer) -> str:
    """The end-of-text token as text.

    Raises:
        ValueError: if there is none.
    """
    return str(tokenizer.id_to_token(end_of_text_id(tokenizer)))


def _growth(part: dict[str, Any]) -> float:
    """How many times as long a normalizer or a decoder can make a text, other than by Unicode forms."""
    if part["type"] == "Sequence":
        return math.prod(map(_growth, part.get("normalizers") or part.get("decoders") or []))
    if part["type"] == "Prepend":
        return 1.0 + len(part["prepend"])
    if part["type"] == "Precompiled":  # by SentencePiece: a trie, then texts with a zero byte after each
        longest = max(map(len, base64.b64decode(part["precompiled_charsmap"]).split(b"\0")))
        return max(1.0, longest / LONGEST_CHARACTER)
    if part["type"] == "Replace":
        pattern = part["pattern"]
        # A regular expression may match between any two characters.
        shortest = len(pattern["String"]) if "String" in pattern else 0
        return max(1.0, len(part["content"]) / shortest if shortest else 1.0 + len(part["content"]))
    return 1.0


def _end_of_text_id(tokenizer: Tokenizer) -> int | None:
    """The token that the tokenizer puts between two texts (but not around one), else a usual end of text."""
    between = tokenizer.encode("", "").ids
    if len(between) == 1 and not tokenizer.encode("").ids:
        return int(between[0])
    ids = (tokenizer.token_to_id(name) for name in (END_OF_TEXT, *OTHER_ENDS))
    return next((token for token in ids if token is not None), None)


def _set_end_of_text(tokenizer: Tokenizer, end_of_text: str) -> None:
    """Record an end-of-text token that would not be detected, as the separator of a pair of texts.

    The encoding of a single text does not change, so other programs can use the file as before.
    """
    token = tokenizer.token_to_id(end_of_text)
    if _end_of_text_id(tokenizer) != token:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A", pair=f"$A {end_of_text} $B", special_tokens=[(end_of_text, token)]
        )


def _for_plain_text(tokenizer: Tokenizer) -> Tokenizer:
    """Switch off truncation, padding, and the parsing of special tokens in text.

    Otherwise a document that contains the text "<|endoftext|>" would end there.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer
