"""Train and load byte-level BPE tokenizers."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
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


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer.json, or the one in a folder.

    Raises FileNotFoundError if there is none; ValueError if it is broken, has no end-of-text token
    or has holes in its ids (the model's embedding needs ids 0 … size - 1).
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: give a {FILE_NAME} or a folder with one")
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # noqa: BLE001 (the library raises nothing narrower)
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file} is not a readable {FILE_NAME} ({reason}): rebuild it") from None
    vocabulary = tokenizer.get_vocab()
    if END_OF_TEXT not in vocabulary:
        raise ValueError(f"{file} has no {END_OF_TEXT} token: add one, or train a tokenizer here")
    if max(vocabulary.values()) != len(vocabulary) - 1:
        raise ValueError(
            f"{file} has {len(vocabulary)} tokens but ids up to {max(vocabulary.values())}: "
            "give a tokenizer without holes in its ids"
        )
    return _for_plain_text(tokenizer)


def written(tokenizer: Tokenizer) -> bytes:
    """What a tokenizer.json of this package holds; others' may differ in layout and say the same."""
    text: str = tokenizer.to_str(pretty=True)
    return (text + "\n").encode("utf-8")


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """Return the id of the end-of-text token. Raises ValueError if there is none."""
    token = tokenizer.token_to_id(END_OF_TEXT)
    if token is None:
        raise ValueError(f"the tokenizer has no {END_OF_TEXT} token: train one here")
    return token


def _for_plain_text(tokenizer: Tokenizer) -> Tokenizer:
    """Let text be only text: no cutting, no padding, and a written-out "<|endoftext|>" is letters.

    Otherwise a document that mentions the special token would end itself in the middle.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer
