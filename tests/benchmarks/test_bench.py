"""The parts that benchmarks share: results files that grow, timing, verdicts and tables."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from benchmarks import bench
from benchmarks.bench import Claim, Results, claims_table, in_fresh_process, in_turn, judged, median_ratio
from benchmarks.docs import RESULTS


def shards(folder: Path, tokenizer: str) -> Path:
    """A folder with the manifest entries that results files record."""
    folder.mkdir(exist_ok=True)
    manifest = {
        "tokenizer_sha256": tokenizer,
        "splits": {"train": {"tokens": 7}},
        "sources": [{"path": "a.txt", "sha256": "0", "bytes": 1}],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_results_file_keeps_its_rows_and_grows_by_those_that_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results = Results(path, training=None)
    results.describe(shards(tmp_path / "shards", "abc"), tokens=5)
    results.add({"name": "a", "seed": 0})
    again = Results(path, training="not used for an existing file")
    again.describe(shards(tmp_path / "shards", "abc"), tokens=5)
    assert again.find(name="a", seed=0) == {"name": "a", "seed": 0, "date": time.strftime("%Y-%m-%d")}
    assert again.find(name="a", seed=1) is None
    again.add({"name": "a", "seed": 1})
    again.write(claims=[])
    content = json.loads(path.read_text())
    assert [row["seed"] for row in content.pop("rows")] == [0, 1]
    assert content.pop("machine").startswith(f"{os.cpu_count()} cores, ")
    assert content == {
        "training": None,
        "tokenizer_sha256": "abc",
        "tokens": 5,
        "train_tokens_available": 7,
        "sources": {"files": 1, "sha256": hashlib.sha256(b"0").hexdigest()},
        "claims": [],
    }
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["results.json"]


def test_rows_of_other_texts_or_settings_are_not_mixed(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    results.describe(shards(tmp_path / "shards", "abc"), tokens=5)
    with pytest.raises(SystemExit, match="has rows with tokens 5, not 6"):
        results.describe(tmp_path / "shards", tokens=6)
    with pytest.raises(SystemExit, match="has rows with tokenizer_sha256 abc, not xyz"):
        results.describe(shards(tmp_path / "shards", "xyz"), tokens=5)


@pytest.mark.parametrize("name", ["quality", "adapters", "importing", "gradients", "plan"])
def test_results_files_of_this_repository_keep_their_form(tmp_path: Path, name: str) -> None:
    stored = (RESULTS / f"{name}.json").read_text()
    path = tmp_path / "results.json"
    path.write_text(stored)
    Results(path).write()
    assert path.read_text() == stored


def test_ways_take_turns_and_the_first_round_is_not_counted() -> None:
    calls: list[str] = []
    seconds = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}
    assert median_ratio([1, 2, 9], [1, 1, 3]) == 2


def test_a_fresh_process_shares_nothing_with_this_one() -> None:
    assert in_fresh_process(os.getpid) != os.getpid()


def test_claims_are_a_table_with_their_verdicts() -> None:
    claims = [
        judged("fast", "≥ 1 ×", "2 ×", True),
        judged("small", "≤ 1", "2", False),
        Claim("shown", "", "3", 1, ""),
    ]
    assert claims_table(claims).splitlines() == [
        "| claim | bar | measured | |",
        "|---|---|---|---|",
        "| fast | ≥ 1 × | 2 × | reached |",
        "| small | ≤ 1 | 2 | MISSED |",
        "| shown | – | 3 |  |",
    ]


def test_the_machine_is_named_with_the_versions_of_packages() -> None:
    stamp = bench.stamp("torch", note="1 thread")
    assert stamp["machine"].split(", ")[2].startswith("torch ")
    assert stamp["machine"].endswith(", 1 thread")
