import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from limits import limits
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from data.tasks.example import Example
from data.tasks.stream import encode
from data.tokenizer import END_OF_TEXT, end_of_text_id, in_short_words, load_tokenizer, train_tokenizer

TEXTS = ["the cat sat on the mat\n", "def f(x):\n        return x\n"] * 20
TOKENIZER = train_tokenizer(TEXTS, 300)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",))))
@example(f"a document may mention {END_OF_TEXT} without ending")
@example("  leading and trailing  \r\n\t")
def test_any_text_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert end_of_text_id(TOKENIZER) not in ids


def test_training_is_deterministic_and_survives_saving(tmp_path: Path) -> None:
    assert train_tokenizer(TEXTS, 300).to_str() == TOKENIZER.to_str()
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    assert loaded.to_str() == TOKENIZER.to_str()
    text = f"the {END_OF_TEXT} mat"
    assert loaded.encode(text).ids == TOKENIZER.encode(text).ids


@pytest.mark.parametrize("unit", ["a", "7", "-_", " \t", "é", "漢", "½1"])
def test_one_very_long_word_does_not_stall_training(unit: str) -> None:
    with limits(seconds=60):
        tokenizer = train_tokenizer([*TEXTS, unit * 750_000], 320)
    assert tokenizer.decode(tokenizer.encode("a cat " + unit * 1500).ids) == "a cat " + unit * 1500


def test_words_of_usual_length_are_not_cut() -> None:
    word = "ab" * 499
    assert list(in_short_words([f"{word} {word}"])) == [f"{word} {word}"]
    pieces = list(in_short_words([f"x {word}abcd y"]))
    assert "".join(pieces) == f"x {word}abcd y"
    assert len(pieces) == 2


def _with(tmp_path: Path, **parts: Any) -> Path:
    tokenizer = Tokenizer(models.WordLevel({"</s>": 0, "a": 1}, unk_token="a"))
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def _times(times: int) -> normalizers.Normalizer:
    return normalizers.Replace("a", "a" * times)


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": normalizers.Sequence([_times(200), normalizers.Sequence([_times(200)]), _times(200)])},
        {"normalizer": normalizers.Replace(Regex(""), "a" * 1000)},
        {"normalizer": normalizers.Prepend("a" * 100_000)},
        {"decoder": decoders.Replace("a", "a" * 1000)},
    ],
)
def test_a_tokenizer_that_makes_texts_much_longer_is_refused(tmp_path: Path, part: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json can make a text [\d,]+ times as long"):
        load_tokenizer(_with(tmp_path, **part))


def test_usual_normalizers_are_accepted(tmp_path: Path) -> None:
    usual = [
        normalizers.NFKC(),
        normalizers.Prepend("▁"),
        normalizers.Replace(" ", "▁"),
        normalizers.Replace(Regex(" {2,}"), "▁"),
        normalizers.BertNormalizer(),
    ]
    assert load_tokenizer(_with(tmp_path, normalizer=normalizers.Sequence(usual)))


def test_a_panic_of_the_library_is_an_error(tmp_path: Path) -> None:
    split = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    tokenizer = load_tokenizer(_with(tmp_path, pre_tokenizer=split))
    with pytest.raises(ValueError, match=r"cannot read a text \(Onig: .*\): use another tokenizer"):
        encode(Example(None, "a" * 40 + "!"), tokenizer, 32)


def test_smallest_vocabulary_is_the_bytes_and_end_of_text() -> None:
    assert train_tokenizer(TEXTS, 257).get_vocab_size() == 257
    with pytest.raises(ValueError, match="257 = 256 bytes"):
        train_tokenizer(TEXTS, 256)


def test_truncation_in_a_file_does_not_cut_documents(tmp_path: Path) -> None:
    cutting = train_tokenizer(TEXTS, 300)
    cutting.enable_truncation(3)
    cutting.save(str(tmp_path / "tokenizer.json"))
    assert len(load_tokenizer(tmp_path).encode("xyz" * 50).ids) > 3


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json"):
        load_tokenizer(broken)
    other = tmp_path / "other.json"
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(other))
    with pytest.raises(ValueError, match=re.escape("no <|endoftext|>")):
        load_tokenizer(other)
    holes = tmp_path / "holes.json"
    Tokenizer(models.WordLevel({END_OF_TEXT: 0, "a": 9}, unk_token="a")).save(str(holes))
    with pytest.raises(ValueError, match="holes"):
        load_tokenizer(holes)
