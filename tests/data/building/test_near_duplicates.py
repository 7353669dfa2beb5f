"""Edited copies of documents are found and left out, wherever they come from and whoever looks for them."""

import json
import random
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st
from small_builds import contents, document_texts

from data.building import scan, steps
from data.building.near import pairs, signatures
from data.building.near.signatures import SIGNED, Signatures, sign, signature
from data.building.scratch import Done, Task
from data.building.sources import TextSource
from data.corpus import Document, is_held_out
from data.manifest import Manifest

Build = Callable[..., Manifest]

VOCABULARY = [f"{a}{b}{c}" for a in "bdfglm" for b in "aeiou" for c in "knprst"]


def original(seed: int, length: int = 150) -> str:
    """A text of random words."""
    return " ".join(random.Random(f"text {seed}").choices(VOCABULARY, k=length))


def edited(text: str, changes: int, seed: int = 0) -> str:
    """The text with so many of its words changed, evenly spread."""
    words = text.split()
    for index in range(changes):
        place = (index * len(words)) // changes + len(words) // (2 * changes)
        words[place] = f"new{seed}x{index}"
    return " ".join(words)


def similarity(one: str, other: str) -> float:
    """The Jaccard similarity of the sets of five-word phrases, by definition."""
    sets = []
    for text in (one, other):
        words = text.lower().split()
        sets.append({tuple(words[at : at + 5]) for at in range(max(1, len(words) - 4))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def write(path: Path, texts: Sequence[str]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """120 texts; 40 of them with a copy above 0.9, 40 others with one below 0.7."""
    texts = [original(seed) for seed in range(120)]
    above = [edited(text, 1) for text in texts[:40]]
    below = [edited(text, 7) for text in texts[40:80]]
    assert min(map(similarity, texts[:40], above)) > 0.9
    assert max(map(similarity, texts[40:80], below)) < 0.68
    return texts + above + below


def test_copies_above_the_threshold_are_left_out_and_those_below_stay(
    corpus: list[str], small_build: Build, tmp_path: Path
) -> None:
    manifest = small_build("out", write(tmp_path / "a.jsonl", corpus), near_duplicates=0.8, sequence_length=8)
    (source,) = manifest.sources
    assert (source.documents, source.near_duplicates) == (160, 40)
    kept = [*document_texts(tmp_path / "out", "train"), *document_texts(tmp_path / "out", "validation")]
    assert len(set(kept)) == len(kept) >= 158  # the last of a split may not fill a sequence
    assert all((text in kept) + (edited(text, 1) in kept) <= 1 for text in corpus[:40])
    assert len(set(corpus[40:120] + corpus[160:]) - set(kept)) <= 2
    counts = [split.documents for split in manifest.splits.values()]
    assert sum(counts) == 160
    assert (counts[0], counts[1]) == (source.train, source.held_out)


def test_no_held_out_document_has_a_near_copy_in_training(
    corpus: list[str], small_build: Build, tmp_path: Path
) -> None:
    def worst(name: str) -> float:
        train = document_texts(tmp_path / name, "train")
        return max(similarity(a, b) for a in document_texts(tmp_path / name, "validation") for b in train)

    source = write(tmp_path / "a.jsonl", corpus)
    small_build("with", source, sequence_length=8)
    assert worst("with") > 0.9  # or there would be nothing to remove
    small_build("without", source, sequence_length=8, near_duplicates=0.8)
    assert worst("without") < 0.7
    for split in ("train", "validation"):
        for text in document_texts(tmp_path / "without", split):
            assert is_held_out(Document("", text), 0.2) == (split == "validation")


def test_held_out_documents_stay_as_often_as_others(small_build: Build, tmp_path: Path) -> None:
    texts = [original(seed, 40) for seed in range(400)]
    copies = [f"{text}!" for text in texts]  # the same words
    manifest = small_build("out", write(tmp_path / "a.jsonl", texts + copies), near_duplicates=0.9)
    # Two fifths of a fifth would be held out, were they preferred or passed over: 0.36 or 0.04.
    assert manifest.sources[0].near_duplicates == 400
    assert 0.14 < manifest.splits["validation"].documents / 400 < 0.26


def test_the_first_source_keeps_its_document_and_all_texts_are_counted(
    small_build: Build, tmp_path: Path
) -> None:
    texts = [original(seed) for seed in range(60)]
    one = [*texts[:40], texts[0], "no", ""]
    two = [*(edited(text, 1) for text in texts[:20]), *texts[30:], edited(texts[50], 1), "so", " "]
    twice = edited(texts[0], 1)  # an exact copy of a near copy
    manifest = small_build(
        "out",
        write(tmp_path / "one.jsonl", one),
        write(tmp_path / "two.jsonl", [*two, twice]),
        near_duplicates=0.8,
        min_bytes=10,
    )
    first, second = manifest.sources
    assert (first.documents, first.near_duplicates, first.duplicates, first.empty) == (40, 0, 1, 1)
    assert (second.documents, second.near_duplicates, second.duplicates) == (20, 21, 11)
    assert first.filtered == second.filtered == {"min_bytes": 1}
    for source, given_texts in ((first, one), (second, [*two, twice])):
        assert source.documents + source.duplicates + source.empty + sum(source.left_out.values()) == len(
            given_texts
        )


def test_any_tasks_in_any_order_give_the_same_bytes(
    corpus: list[str], small_build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for index, text in enumerate([*corpus, *(edited(corpus[0], 1, seed) for seed in range(1, 9))]):
        (texts / f"{index:03d}.txt").write_text(text)
    small_build("whole", texts, near_duplicates=0.8)
    monkeypatch.setattr(scan, "TASK_BYTES", 5000)
    monkeypatch.setattr(steps, "LEAST_GROUP", 3000)
    monkeypatch.setattr(steps, "LARGEST_GROUP", 3000)
    monkeypatch.setattr(pairs, "_AT_ONCE", 3)
    counts = []

    def shuffled(function: Callable[[Task], Done], tasks: list[Task]) -> list[Done]:
        counts.append(len(tasks))
        return [function(task) for task in random.Random(7).sample(list(tasks), len(tasks))]

    small_build("parts", texts, near_duplicates=0.8, run=shuffled)
    assert min(counts[0], counts[1]) > 10
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    # Nor do the names of files and their order matter.
    other = tmp_path / "other"
    other.mkdir()
    for index, file in enumerate(sorted(texts.iterdir(), reverse=True)):
        (other / f"{index:03d}.txt").write_text(file.read_text())
    manifest = small_build("reversed", other, near_duplicates=0.8)
    assert manifest.splits == small_build("whole", texts, near_duplicates=0.8, overwrite=True).splits


@pytest.mark.parametrize(("stage", "at"), [("comparing", 0.5), ("comparing", 1.0), ("encoding", 0.0)])
def test_a_build_that_was_stopped_while_comparing_goes_on(
    stage: str, at: float, corpus: list[str], small_build: Build, tmp_path: Path
) -> None:
    source = write(tmp_path / "a.jsonl", corpus)

    def stop(now: str, fraction: float) -> None:
        if now == stage and fraction >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_build("out", source, near_duplicates=0.8, progress=stop)
    names: list[str] = []

    def note(function: Callable[[Task], Done], tasks: list[Task]) -> list[Done]:
        names.extend(task.name for task in tasks)
        return [function(task) for task in tasks]

    small_build("out", source, near_duplicates=0.8, run=note)
    small_build("fresh", source, near_duplicates=0.8)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    assert not any(name.startswith("scan") for name in names)
    bands = sum(name.startswith("band") for name in names)
    assert (0 < bands < 17) if at == 0.5 else bands == 0


def test_all_copies_of_a_repeated_document_are_left_out(small_build: Build, tmp_path: Path) -> None:
    texts = [original(seed) for seed in range(50)]
    first = write(tmp_path / "one.jsonl", texts)
    second = write(tmp_path / "two.jsonl", [edited(text, 1) for text in texts])
    manifest = small_build("out", first, TextSource(path=str(second), weight=3.5), near_duplicates=0.8)
    assert manifest.sources[1].near_duplicates == 50
    assert manifest.sources[1].train == 0
    assert manifest.splits == small_build("alone", first).splits


def test_a_document_that_its_weight_leaves_out_keeps_no_other_out(small_build: Build, tmp_path: Path) -> None:
    texts = [original(seed) for seed in range(100)]
    copies = [edited(text, 1) for text in texts]
    rare = TextSource(path=str(write(tmp_path / "rare.jsonl", texts)), weight=0.01)
    manifest = small_build("out", rare, write(tmp_path / "all.jsonl", copies), near_duplicates=0.8)
    taken = manifest.sources[0].train + manifest.sources[0].held_out
    assert manifest.sources[1].near_duplicates == taken < 40
    assert sum(split.documents for split in manifest.splits.values()) == 100


@pytest.mark.parametrize("threshold", [0.5, 0.65, 0.8, 0.95])
def test_pairs_just_above_the_threshold_are_rarely_missed(threshold: float, tmp_path: Path) -> None:
    # Signatures at a given similarity, without texts: 300 pairs that share 3 hashes more than they need.
    draw = np.random.default_rng(3)
    shared = int(np.ceil(threshold * 128)) + 3
    entries = np.zeros(600, SIGNED)
    entries["hashes"] = draw.integers(2**32, size=(600, 128))
    for index in range(0, 600, 2):
        places = draw.permutation(128)[:shared]
        entries["hashes"][index + 1, places] = entries["hashes"][index, places]
    entries.tofile(tmp_path / "signatures")
    found = set()
    for task in pairs.band_tasks(tmp_path, [tmp_path / "signatures"], threshold):
        task.work()
        found |= {tuple(pair) for pair in np.load(task.file(".pairs"))}
    assert found <= {(index, index + 1) for index in range(0, 600, 2)}
    assert len(found) >= 0.95 * 300


@given(changes=st.lists(st.integers(0, 5), min_size=2, max_size=14), seed=st.integers(0, 99))
def test_a_bucket_is_connected_as_comparing_everybody_would(
    changes: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # A chain, shuffled: each row differs from the one before in so many nines of its hashes.
    rows = np.zeros((len(changes), 128), np.uint32)
    for index, change in enumerate(changes[1:], 1):
        rows[index] = rows[index - 1]
        rows[index, (np.arange(change * 9) + 9 * index) % 128] = index
    rows = np.random.default_rng(seed).permutation(rows)
    entries = np.zeros(len(rows), SIGNED)
    entries["hashes"] = rows
    path = tmp_path_factory.mktemp("bucket") / "signatures"
    entries.tofile(path)

    def connected(found: Sequence[tuple[int, int]]) -> list[int]:
        label = list(range(len(rows)))
        for a, b in found:
            low, high = sorted((label[a], label[b]))
            label = [low if one == high else one for one in label]
        return label

    everybody = [(a, b) for a, b in combinations(range(len(rows)), 2) if (rows[a] == rows[b]).mean() >= 0.8]
    found = [
        tuple(pair) for part in pairs.alike(Signatures([path]), np.arange(len(rows)), 0.8) for pair in part
    ]
    assert connected(found) == connected(everybody)
    assert len(found) < len(rows)


def test_similarity_is_estimated_without_bias() -> None:
    errors = []
    for seed in range(40):
        text = original(seed, 400)
        copy = edited(text, 1 + seed % 12)
        one, other = signature(text), signature(copy)
        assert one is not None
        assert other is not None
        errors.append(float((one == other).mean()) - similarity(text, copy))
    assert max(map(abs, errors)) < 4 * 0.035
    assert abs(float(np.mean(errors))) < 0.02


def test_a_signature_is_that_of_all_shingles_however_long_the_text_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for length in (1, 4, 5, 6, 9, 10, 11, 200):
        words = original(length, length).split()
        whole = MinHash(num_perm=128, seed=1)
        whole.update_batch([" ".join(words[at : at + 5]).encode() for at in range(max(1, length - 4))])
        for at_once in (4096, 10, 7):
            monkeypatch.setattr(signatures, "_AT_ONCE", at_once)
            assert np.array_equal(signature(" ".join(words)), whole.hashvalues), (length, at_once)
    assert np.array_equal(signature("One, two;\nTHREE"), signature("one two three"))
    assert signature("?! … --") is None
    assert sign(b"\0" * 32, 0, 1, "?!") == b""


def test_texts_without_words_are_no_copies_of_each_other(small_build: Build, tmp_path: Path) -> None:
    texts = [original(seed) for seed in range(40)] + ["?" * n for n in range(1, 20)]
    manifest = small_build("out", write(tmp_path / "a.jsonl", texts), near_duplicates=0.5)
    assert (manifest.sources[0].documents, manifest.sources[0].near_duplicates) == (59, 0)


@pytest.mark.parametrize("threshold", [0, -1, 0.49, 0.96, 1.0, 80, float("nan")])
def test_thresholds_that_make_no_sense_are_refused(
    threshold: float, small_build: Build, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=r"near_duplicates is .*: it must be from 0.5 to 0.95, as 0.8"
    ) as error:
        small_build("out", write(tmp_path / "a.jsonl", ["text"]), near_duplicates=threshold)
    assert "\n" not in str(error.value)
