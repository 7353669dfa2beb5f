import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

import data.shards as shards
from data.building.spill import document_key
from data.building.write import cut_sequences
from data.corpus import is_held_out, read_documents
from data.manifest import load_manifest
from data.shards import build
from data.stream import ShardStream
from data.tokenizer import end_of_text_id, load_tokenizer

SMALL: dict[str, Any] = {"vocabulary_size": 300, "sequence_length": 32, "held_out": 0.1}


def _files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@given(length=st.integers(1, 9), count=st.integers(2, 200))
def test_every_token_but_the_first_is_predicted_once(length: int, count: int) -> None:
    tokens = np.arange(count, dtype=np.uint16)
    if count <= length:
        return
    targets = cut_sequences(tokens, length)[:, 1:].ravel().tolist()
    assert targets == list(range(1, len(targets) + 1))
    assert count - 1 - len(targets) < length


def test_shards_hold_the_documents_in_the_seeded_order(corpus: Path, built: dict[int, Path]) -> None:
    manifest = load_manifest(built[50])
    tokenizer = load_tokenizer(built[50])
    documents = sorted(
        read_documents([corpus]), key=lambda document: document_key(bytes.fromhex(document.digest), 0, 0)
    )
    for split in ("train", "validation"):
        members = [d for d in documents if is_held_out(d, 0.1) == (split == "validation")]
        facts = manifest.splits[split]
        stream = ShardStream(
            built[50], rank=0, world_size=1, global_batch=1, sequence_length=32, seed=0, split=split
        )
        rows = stream.sequence_rows(np.arange(facts.sequences)).numpy()
        tokens = [rows[0, 0], *rows[:, 1:].ravel()]
        end = end_of_text_id(tokenizer)
        expected = [i for d in members for i in [*tokenizer.encode(d.text).ids, end]]
        assert tokens == expected[: len(tokens)]
        assert len(expected) - len(tokens) < 32
        texts = b"".join(d.text.encode() for d in members)
        assert (facts.documents, facts.bytes) == (len(members), len(texts))
        assert facts.tokens == len(expected)
        assert facts.gzip_bytes == (len(gzip.compress(texts, 9)) if split == "validation" else None)


def test_plain_webdataset_reads_our_shards(built: dict[int, Path]) -> None:
    folder = built[200]
    manifest = load_manifest(folder)
    stream = ShardStream(folder, rank=0, world_size=1, global_batch=1, sequence_length=32, seed=0)
    urls = [str(folder / shard.name) for shard in manifest.splits["train"].shards]
    members = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    keys = [member["__key__"] for member in members]
    assert keys == [f"{i:08d}" for i in range(len(keys))]
    rows = np.concatenate([member["tokens.npy"] for member in members])
    assert rows.dtype == np.uint16
    assert (rows == stream.sequence_rows(np.arange(stream.sequences)).numpy()).all()
    assert max(member["tokens.npy"].nbytes for member in members) <= 256 * 1024


def test_rebuild_is_byte_identical_whatever_the_order_of_paths(corpus: Path, tmp_path: Path) -> None:
    files = sorted(corpus.iterdir())
    build(files, tmp_path / "one", **SMALL)
    # In another process: hash seeds and the tokenizer's threads must not show.
    program = (
        "import sys; from pathlib import Path; from data.shards import build;"
        f"build([Path(p) for p in sys.argv[2:]], Path(sys.argv[1]), **{SMALL!r})"
    )
    backwards = [str(file) for file in reversed(files)]
    root = Path(shards.__file__).parents[1]
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "two"), *backwards],
        check=True,
        cwd=root,
        env={**os.environ, "PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "1"},
    )
    one, two = _files(tmp_path / "one"), _files(tmp_path / "two")
    sources = [json.loads(files.pop("manifest.json")) for files in (one, two)]
    assert one == two
    assert sources[0].pop("sources") == sources[1].pop("sources")[::-1]
    assert sources[0] == sources[1]


def test_seed_changes_the_order_but_not_the_held_out_documents(corpus: Path, tmp_path: Path) -> None:
    first = build([corpus], tmp_path / "one", **SMALL)
    second = build([corpus], tmp_path / "two", seed=1, **SMALL)
    assert first.splits["train"].shards[0].sha256 != second.splits["train"].shards[0].sha256
    assert first.splits["validation"].bytes == second.splits["validation"].bytes


def test_given_tokenizer_is_kept(corpus: Path, built: dict[int, Path], tmp_path: Path) -> None:
    manifest = build([corpus], tmp_path / "out", tokenizer=built[50], sequence_length=16)
    assert manifest.tokenizer_sha256 == load_manifest(built[50]).tokenizer_sha256


def test_progress_tells_every_stage_and_never_goes_back(corpus: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, float]] = []
    build([corpus], tmp_path / "out", shard_sequences=7, progress=lambda *call: calls.append(call), **SMALL)
    stages = list(dict.fromkeys(stage for stage, _ in calls))
    assert stages == ["reading", "tokenizer", "encoding", "writing"]
    for stage in stages:
        fractions = [fraction for name, fraction in calls if name == stage]
        assert fractions[-1] == 1.0
        assert fractions == sorted(fractions)


def test_existing_folder_is_kept_unless_overwritten(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build([corpus], out, **SMALL)
    before = _files(out)
    with pytest.raises(ValueError, match="exists"):
        build([corpus], out, seed=1, **SMALL)
    assert _files(out) == before
    build([corpus], out, seed=1, overwrite=True, **SMALL)
    assert load_manifest(out).seed == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwrite_spares_folders_that_are_not_data(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="not a data folder"):
        build([corpus], tmp_path / "home", overwrite=True, **SMALL)
    assert (tmp_path / "home" / "thesis.tex").exists()
    build([corpus], tmp_path / "out", **SMALL)
    (tmp_path / "out" / "thesis.tex").write_text("more years of work")
    with pytest.raises(ValueError, match=r"holds 'thesis.tex', which is no part of a data folder"):
        build([corpus], tmp_path / "out", overwrite=True, **SMALL)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_nothing_half_made_after_an_error(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    out = tmp_path / "out"
    build([corpus], out, **SMALL)
    before = _files(out)
    write = Path.write_text

    def fail_at_the_manifest(path: Path, data: str, *arguments: Any, **options: Any) -> int:
        if path.name == "manifest.json":
            raise error
        return write(path, data, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", fail_at_the_manifest)
    for target, overwrite in ((tmp_path / "new", False), (out, True)):
        with pytest.raises(type(error)):
            build([corpus], target, overwrite=overwrite, **SMALL)
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".new.building", ".out.building"}
    assert _files(out) == before
    # What is left is of use to the next try, and to nothing else.
    monkeypatch.setattr(Path, "write_text", write)
    for target, overwrite in ((tmp_path / "new", False), (out, True)):
        build([corpus], target, overwrite=overwrite, **SMALL)
        assert _files(target) == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", "new"}


def test_folder_written_by_somebody_else_meanwhile_is_kept(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def meanwhile(stage: str, fraction: float) -> None:
        if (stage, fraction) == ("writing", 1.0):
            out.mkdir()
            (out / "manifest.json").write_text("theirs")

    with pytest.raises(ValueError, match="exists"):
        build([corpus], out, progress=meanwhile, **SMALL)
    assert _files(out) == {"manifest.json": b"theirs"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_old_folder_comes_back_if_the_last_rename_fails(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    build([corpus], out, **SMALL)
    before = _files(out)
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == ".out.incomplete":
            raise OSError("no luck")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no luck"):
        build([corpus], out, overwrite=True, **SMALL)
    assert _files(out) == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.building"}


def test_leftovers_of_a_killed_build_do_no_harm(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.incomplete").mkdir()
    (tmp_path / ".out.incomplete" / "train-000000.tar").write_text("half")
    build([corpus], tmp_path / "out", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary_size": 100}, "257"),
        ({"sequence_length": 0}, "at least 1"),
        ({"shard_sequences": 0}, "at least 1"),
        ({"held_out": 0.0}, "between 0 and 1"),
        ({"held_out": 1e-9}, "text too small: of 60 documents, 0 are held out"),
        ({"sequence_length": 10**6}, r"tokens, but one sequence takes 1000000 \+ 1"),
    ],
)
def test_unusable_arguments_are_refused_in_one_line(
    corpus: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        build([corpus], tmp_path / "out", **{**SMALL, **changes})
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
