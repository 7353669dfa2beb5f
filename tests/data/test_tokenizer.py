import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from data.tokenizer import END_OF_TEXT, end_of_text_id, load_tokenizer, train_tokenizer

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
