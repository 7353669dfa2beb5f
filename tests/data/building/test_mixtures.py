"""How often a document occurs, and what the report says of it."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_builds import document_texts, made_up, sequences, write_texts

from data.building.scan import copies_of
from data.building.sources import TextSource, as_source
from data.corpus import Document, is_held_out
from data.manifest import Manifest

Build = Callable[..., Manifest]


def _write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_a_weight_says_how_often_training_documents_occur(small_build: Build, tmp_path: Path) -> None:
    few, many = made_up(600, seed=2), made_up(200, seed=3)
    manifest = small_build(
        "out",
        TextSource(path=str(_write(tmp_path / "few.jsonl", few)), weight=0.3, licence="CC0-1.0"),
        TextSource(path=str(_write(tmp_path / "many.jsonl", many)), weight=2.5),
        sequence_length=8,
    )
    training = Counter(document_texts(tmp_path / "out", "train"))
    validation = Counter(document_texts(tmp_path / "out", "validation"))
    assert max(validation.values()) == 1
    held_out = {text for text in few + many if is_held_out(Document("", text), 0.2)}
    assert len(held_out - set(validation)) <= 1  # the last may not fill a sequence
    assert not held_out & set(training)
    chosen = [text for text in few if text not in held_out]
    assert set(Counter(training[text] for text in chosen)) == {0, 1}
    assert 0.24 < sum(training[text] for text in chosen) / len(chosen) < 0.36
    repeated = [text for text in many if text not in held_out]
    assert set(Counter(training[text] for text in repeated[:-1])) <= {1, 2, 3}
    assert 2.35 < sum(training[text] for text in repeated) / len(repeated) < 2.65
    first, second = manifest.sources
    assert (first.licence, first.weight, first.documents, first.held_out) == (
        "CC0-1.0",
        0.3,
        600,
        600 - len(chosen),
    )
    assert first.train + second.train == manifest.splits["train"].documents
    assert first.train_bytes + second.train_bytes == manifest.splits["train"].bytes
    assert first.held_out + second.held_out == manifest.splits["validation"].documents


def test_copies_lie_far_from_each_other(small_build: Build, tmp_path: Path) -> None:
    source = TextSource(path=str(_write(tmp_path / "a.jsonl", made_up(100, seed=4))), weight=2)
    manifest = small_build("out", source)
    tokens = sequences(tmp_path / "out", "train")[:, 1:].ravel()
    ends = np.flatnonzero(tokens == manifest.end_of_text)
    documents = [piece.tobytes() for piece in np.split(tokens, ends + 1)]
    neighbors = sum(one == other for one, other in pairwise(documents))
    assert neighbors < 8


def test_duplicates_and_empty_texts_are_left_out_and_counted(small_build: Build, tmp_path: Path) -> None:
    texts = made_up(100, seed=5)
    one = write_texts([*texts[:60], texts[0], " \n"], tmp_path / "one")
    two = _write(tmp_path / "two.jsonl", [*texts[40:], texts[99], ""])
    manifest = small_build("out", one, two)
    first, second = manifest.sources
    assert (first.documents, first.duplicates, first.empty) == (60, 1, 1)
    assert (second.documents, second.duplicates, second.empty) == (40, 21, 1)
    assert sum(split.documents for split in manifest.splits.values()) == 100
    alone = small_build("alone", _write(tmp_path / "all.jsonl", texts))
    assert alone.splits["train"].shards == manifest.splits["train"].shards


def test_a_text_of_two_sources_occurs_as_often_as_the_larger_weight_says(
    small_build: Build, tmp_path: Path
) -> None:
    source = str(_write(tmp_path / "a.jsonl", made_up(100, seed=6)))
    twice = small_build("one", TextSource(path=source, weight=0.5), TextSource(path=source, weight=2))
    same = small_build("two", TextSource(path=source, weight=2))
    assert twice.splits == same.splits
    assert (twice.sources[0].documents, twice.sources[1].duplicates) == (100, 100)


@given(st.integers(0), st.floats(0.01, 5), st.floats(0.01, 5))
def test_a_larger_weight_never_gives_fewer(number: int, one: float, other: float) -> None:
    digest = hashlib.sha256(str(number).encode()).digest()
    low, high = sorted([one, other])
    assert copies_of(digest, low) <= copies_of(digest, high)
    assert int(one) <= copies_of(digest, one) <= int(one) + 1


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), 1e9])
def test_weights_that_make_no_sense_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        TextSource(path="a.txt", weight=weight)


@pytest.mark.parametrize(
    "path",
    [
        "pipe:touch owned",
        "file:///etc/passwd",
        "simplecache::s3://bucket/a.jsonl",
        "s3://bucket::http://host/a.jsonl",
        "ssh://host/a.jsonl",
        "s3:bucket",
        "hf:",
        "a\0.txt",
    ],
)
def test_addresses_that_could_do_more_than_give_text_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be read|hf:NAME|NUL") as error:
        as_source(path)
    assert "\n" not in str(error.value)
