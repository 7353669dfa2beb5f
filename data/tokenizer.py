"""Train and load byte-level BPE tokenizers."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

END_OF_TEXT = "<|endoftext|>"
OTHER_ENDS = ("</s>", "<|end_of_text|>", "<eos>")
"""What ends a text in tokenizers of others, in this order, where the file does not say which."""
FILE_NAME = "tokenizer.json"
SMALLEST_VOCABULARY = 257


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer that gives back any text exactly.

    The vocabulary has at most `vocabulary_size` entries; a small corpus yields fewer. The same
    texts give the same tokenizer. Raises ValueError for a vocabulary that cannot hold every byte.
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
    tokenizer.train_from_iterator(texts, trainer)
    return _for_plain_text(tokenizer)


def check_vocabulary_size(vocabulary_size: int) -> None:
    """Raise ValueError for a vocabulary that cannot hold every byte and end-of-text."""
    if vocabulary_size < SMALLEST_VOCABULARY:
        raise ValueError(
            f"vocabulary_size is {vocabulary_size}, but it must be at least "
            f"{SMALLEST_VOCABULARY} = 256 bytes + end-of-text: choose a larger one"
        )


def load_tokenizer(path: Path, end_of_text: str | None = None) -> Tokenizer:
    """Load a tokenizer.json, or the one in a folder; `end_of_text` names another token that ends texts.

    Raises FileNotFoundError if there is none; ValueError if it is broken, has no end-of-text token
    or has holes in its ids (the model's embedding needs ids 0 … size - 1).
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: give a {FILE_NAME} or a folder with one")
    try:
        tokenizer = from_json(file.read_bytes())
    except Exception as error:  # noqa: BLE001 (the library raises nothing narrower)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file} is not a readable {FILE_NAME} ({reason}): rebuild it") from None
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
    """Return the tokenizer that `to_json` has written."""
    return _for_plain_text(Tokenizer.from_str(data.decode("utf-8")))


def to_json(tokenizer: Tokenizer) -> bytes:
    """Return what is written to a tokenizer.json."""
    return (tokenizer.to_str(pretty=True) + "\n").encode("utf-8")


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """Return the id of the token that ends a text. Raises ValueError if there is none."""
    token = _end_of_text_id(tokenizer)
    if token is None:
        raise ValueError(f"the tokenizer has no {END_OF_TEXT} token: train one here")
    return token


def end_of_text(tokenizer: Tokenizer) -> str:
    """Return that token as it is written. Raises ValueError if there is none."""
    return str(tokenizer.id_to_token(end_of_text_id(tokenizer)))


def _end_of_text_id(tokenizer: Tokenizer) -> int | None:
    """Return what stands between two texts, if nothing is added to one alone; else a usual end of text."""
    between = tokenizer.encode("", "").ids
    if len(between) == 1 and not tokenizer.encode("").ids:
        return int(between[0])
    found = (tokenizer.token_to_id(name) for name in (END_OF_TEXT, *OTHER_ENDS))
    return next((token for token in found if token is not None), None)


def _set_end_of_text(tokenizer: Tokenizer, end_of_text: str) -> None:
    """Make it known from the file alone, where another token would be taken for the end of text.

    Two texts are then joined by that token; one text stays as it is, so that nothing else changes for
    those who load the file elsewhere.
    """
    token = tokenizer.token_to_id(end_of_text)
    if _end_of_text_id(tokenizer) != token:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A", pair=f"$A {end_of_text} $B", special_tokens=[(end_of_text, token)]
        )


def _for_plain_text(tokenizer: Tokenizer) -> Tokenizer:
    """Let text be only text: no cutting, no padding, and a written-out "<|endoftext|>" is letters.

    Otherwise a document that mentions the special token would end itself in the middle.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer
