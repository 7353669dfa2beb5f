"""Tokenizers that end a text with another token than ours."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_builds import document_texts, made_up, sequences, write_texts
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from data.manifest import Manifest
from data.tokenizer import end_of_text_id, load_tokenizer

Build = Callable[..., Manifest]


def _trained(specials: list[str], path: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=specials, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(made_up(20, seed=1), trainer)
    tokenizer.save(str(path))
    return tokenizer


@pytest.mark.parametrize("end", ["</s>", "<|end_of_text|>", "<eos>"])
def test_a_usual_end_of_text_is_found(end: str, small_build: Build, tmp_path: Path) -> None:
    theirs = _trained(["<s>", end], tmp_path / "theirs.json")
    theirs.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    theirs.save(str(tmp_path / "theirs.json"))
    source = write_texts(made_up(60, seed=12), tmp_path / "texts")
    manifest = small_build("out", source, tokenizer=tmp_path / "theirs.json")
    assert manifest.end_of_text == theirs.token_to_id(end) == end_of_text_id(load_tokenizer(tmp_path / "out"))
    texts = (tmp_path / "out" / "tokenizer.json").read_text()
    assert "<s> " not in texts
    assert Tokenizer.from_str(texts).encode("abc").ids == theirs.encode("abc").ids
    # What begins a text for others begins each document here.
    tokens = sequences(tmp_path / "out", "train")[:, 1:].ravel()
    assert np.count_nonzero(tokens == 0) > 40
    assert (tokens[1:][tokens[:-1] == manifest.end_of_text] == 0).all()


def test_the_pieces_of_a_long_document_are_joined_without_blanks(
    small_build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = sorted({letter for text in made_up(60, seed=12) for letter in text} - {" "})
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", "▁", *letters])}
    theirs = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    theirs.pre_tokenizer, theirs.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    theirs.add_special_tokens(["<s>", "</s>"])
    theirs.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    theirs.save(str(tmp_path / "theirs.json"))
    monkeypatch.setattr("data.building.encode.LONGEST_PIECE", 64)
    texts = made_up(60, seed=12)
    small_build("out", write_texts(texts, tmp_path / "texts"), tokenizer=tmp_path / "theirs.json")
    found = document_texts(tmp_path / "out", "train")
    assert len(found) > 40
    assert {text.removeprefix("<s>").strip() for text in found} <= {text.strip() for text in texts}


def test_any_token_can_be_named_and_the_file_alone_remembers_it(small_build: Build, tmp_path: Path) -> None:
    theirs = _trained(["<|endoftext|>", "[SEP]"], tmp_path / "theirs.json")
    source = write_texts(made_up(60, seed=12), tmp_path / "texts")
    manifest = small_build("out", source, tokenizer=tmp_path / "theirs.json", end_of_text="[SEP]")
    again = load_tokenizer(tmp_path / "out")
    assert manifest.end_of_text == 1 == end_of_text_id(again)
    assert again.encode("abc").ids == theirs.encode("abc").ids
    plain = small_build("plain", source, tokenizer=tmp_path / "theirs.json")
    assert plain.end_of_text == 0
    assert plain.tokenizer_sha256 != manifest.tokenizer_sha256
    assert plain.splits["train"].tokens == manifest.splits["train"].tokens
    # Built again with what it gave, and without naming anything: the same.
    assert small_build("again", source, tokenizer=tmp_path / "out").model_copy(
        update={"sources": ()}
    ) == manifest.model_copy(update={"sources": ()})


def test_ends_that_do_not_fit_are_refused(small_build: Build, tmp_path: Path) -> None:
    file = tmp_path / "theirs.json"
    _trained(["[SEP]"], file)
    source = write_texts(made_up(60, seed=12), tmp_path / "texts")
    with pytest.raises(ValueError, match=r"no <\|endoftext\|> token, nor </s>, .*: name the one"):
        small_build("out", source, tokenizer=file)
    with pytest.raises(ValueError, match=r"theirs\.json has no token '</end>'"):
        small_build("out", source, tokenizer=file, end_of_text="</end>")
    with pytest.raises(ValueError, match="end_of_text is for a given tokenizer"):
        small_build("out", source, end_of_text="[SEP]")


def test_an_end_of_text_inside_a_document_is_refused(small_build: Build, tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens([AddedToken("</s>", special=True)])
    words.save(str(tmp_path / "words.json"))
    source = write_texts([f"a </s> {index}" for index in range(40)], tmp_path / "texts")
    with pytest.raises(ValueError, match=r"gives its end of text \('</s>'\) inside a document"):
        small_build("out", source, tokenizer=tmp_path / "words.json")
    assert not (tmp_path / ".out.building").exists()


def test_a_large_vocabulary_takes_four_bytes(small_build: Build, tmp_path: Path) -> None:
    words = {f"w{index}": index for index in range(70_000)} | {"</s>": 70_000, "<unk>": 70_001}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "words.json"))
    texts = [
        " ".join(f"w{(index * 991 + word * 4999) % 70_000}" for word in range(50)) for index in range(60)
    ]
    source = write_texts(texts, tmp_path / "texts")
    assert small_build("out", source, tokenizer=tmp_path / "words.json").dtype == "uint32"
    assert sequences(tmp_path / "out", "train").max() > 2**16
