"""Training of byte-level BPE tokenizers, and loading of these and others.

A loaded tokenizer encodes a text as its file says, including tokens that begin a text, but appends none,
since texts are continued. A special token that is written out in a text becomes that token, except for the
end-of-text token.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from odeformer.files.errors import panics_are_errors, reason

END_OF_TEXT = "<|endoftext|>"
"""The end-of-text token of the tokenizers trained here."""
OTHER_ENDS = ("</s>", "<|end_of_text|>", "<eos>")
"""End-of-text tokens of other tokenizers, tried in this order if the file does not name one."""
FILE_NAME = "tokenizer.json"
LARGEST_GROWTH = 64
"""Maximum factor by which a given tokenizer may lengthen a text."""
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
    tokenizer.train_from_iterator(in_short_words(texts), trainer)
    return _for_texts(tokenizer)


def in_short_words(texts: Iterable[str]) -> Iterator[str]:
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
    return _for_texts(_read(path, end_of_text))


def read_json(path: Path, end_of_text: str | None = None) -> bytes:
    """The content of a tokenizer.json in the form in which a build writes it.

    Args:
        path: as for :func:`load_tokenizer`, like the rest.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_tokenizer`.
    """
    return to_json(_read(path, end_of_text))


def from_json(data: bytes) -> Tokenizer:
    """The tokenizer in the content of a tokenizer.json."""
    return _for_texts(Tokenizer.from_str(data.decode("utf-8")))


def to_json(tokenizer: Tokenizer) -> bytes:
    """The content of a tokenizer.json for a tokenizer that was trained here."""
    return (tokenizer.to_str(pretty=True) + "\n").encode("utf-8")


def continuing(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer for texts that follow another one.

    It puts nothing in front of them: no begin-of-text token, and not the blank that tokenizers of the kind of
    SentencePiece put in front of a text.
    """
    return _continuing(tokenizer)


def token_texts(encoding: Encoding, text: str) -> list[str]:
    """The part of the text that each token stands for; the name of a token that was put in front of it."""
    parts = zip(encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True)
    return [token if added else text[first:last] for token, (first, last), added in parts]


def _read(path: Path, end_of_text: str | None) -> Tokenizer:
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: give a {FILE_NAME} or a folder with one")
    try:
        with panics_are_errors():
            tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
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
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


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
    around, between = tokenizer.encode("").ids, tokenizer.encode("", "").ids
    if between[:-1] == around and between[-1:] and between[-1] not in around:
        return int(between[-1])
    ids = (tokenizer.token_to_id(name) for name in (END_OF_TEXT, *OTHER_ENDS))
    return next((token for token in ids if token is not None), None)


def _set_end_of_text(tokenizer: Tokenizer, end_of_text: str) -> None:
    """Record an end-of-text token that would not be detected, as the separator of a pair of texts.

    The encoding of a single text does not change, so other programs can use the file as before.
    """
    if _end_of_text_id(tokenizer) != tokenizer.token_to_id(end_of_text):
        before, behind = _around(tokenizer)
        _put_around(tokenizer, before, behind, [*before, "$A", *behind, end_of_text, "$B"])


def _around(tokenizer: Tokenizer) -> tuple[list[str], list[str]]:
    """The tokens that the tokenizer puts before a text and behind it."""
    if not tokenizer.encode("").ids:
        return [], []
    # A text that it certainly has tokens for.
    encoding = tokenizer.encode(" ".join(sorted(tokenizer.get_vocab())[:100]))
    added = encoding.special_tokens_mask
    first, last = added.index(0), len(added) - added[::-1].index(0)
    return encoding.tokens[:first], encoding.tokens[last:]


def _put_around(tokenizer: Tokenizer, before: list[str], behind: list[str], pair: list[str]) -> None:
    names = {*before, *behind, *pair} - {"$A", "$B"}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *behind],
        pair=pair,
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in sorted(names)],
    )


def _for_texts(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer as the first lines of this file describe it."""
    end = _end_of_text_id(tokenizer)
    added = tokenizer.get_added_tokens_decoder()
    if any(token.special and number != end for number, token in added.items()):
        # The library's switch below keeps all special tokens from being read in a text: only one shall be.
        content = json.loads(tokenizer.to_str())
        for token in content["added_tokens"]:
            token["special"] = token["id"] == end
        tokenizer = Tokenizer.from_str(json.dumps(content))
    # Otherwise a document that contains the text "<|endoftext|>" would end there.
    tokenizer.encode_special_tokens = True
    before, behind = _around(tokenizer)
    if behind and end is not None:
        name = str(tokenizer.id_to_token(end))
        pair = [*before, "$A", *([name] if name not in before else []), "$B"]
        _put_around(tokenizer, before, [], pair)
    return tokenizer


@lru_cache(maxsize=4)
def _continuing(tokenizer: Tokenizer) -> Tokenizer:
    content = json.loads(tokenizer.to_str())
    for part in ("normalizer", "pre_tokenizer"):
        content[part] = _without_blank(content[part])
    content["post_processor"] = None
    copy = Tokenizer.from_str(json.dumps(content))
    copy.encode_special_tokens = tokenizer.encode_special_tokens
    return copy


def _without_blank(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer, as in a tokenizer.json, that puts no blank in front of a text."""
    if part is None or part["type"] == "Prepend":
        return None
    for several in ("normalizers", "pretokenizers"):
        if several in part:
            kept = (_without_blank(each) for each in part[several])
            return part | {several: [each for each in kept if each is not None]}
    if part["type"] == "Metaspace":
        return part | {"prepend_scheme": "never"}
    if part["type"] == "ByteLevel":
        return part | {"add_prefix_space": False}
    return part
