"""The quality benchmark's rows: a short training run, and what it says of changed depths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from forked import spawn

from benchmarks.quality.rows import EVALUATED, MODELS, train_row
from data.shards import build
from odeformer.model import parameter_count


def _run(rank: int, index: int, shards: Path) -> None:
    folder = shards.parent / f"run-{index}"
    made = train_row(MODELS[index], shards, tokens=8192, seed=0, rate=4e-3, folder=folder)
    (folder / "row.json").write_text(json.dumps(made))


def row(index: int, shards: Path) -> dict[str, Any]:
    """A row, from a process of its own: it makes a process group."""
    spawn(_run, args=(index, shards))
    return dict(json.loads((shards.parent / f"run-{index}" / "row.json").read_text()))


@pytest.fixture(scope="module")
def long_shards(tmp_path_factory: pytest.TempPathFactory, text_files: list[Path]) -> Path:
    folder = tmp_path_factory.mktemp("benchmark") / "shards"
    build(text_files, folder, vocabulary_size=400, sequence_length=256, held_out=0.2)
    return folder


@pytest.mark.slow
def test_changed_depths_of_an_ordinary_model_agree_where_nothing_changes(long_shards: Path) -> None:
    result = row(0, long_shards)
    assert result["train_loss"] < 6.2
    at_own_depth = result["validation_loss"]["8"]
    for losses in result["changed_depth"].values():
        assert set(losses) == {str(n) for n in EVALUATED}
        assert losses["8"] == pytest.approx(at_own_depth, abs=1e-5)
        assert losses["4"] != pytest.approx(at_own_depth, abs=1e-5)


def test_the_peer_has_as_many_parameters_as_our_ordinary_model(long_shards: Path) -> None:
    [index] = [i for i, model in enumerate(MODELS) if model.peer]
    result = row(index, long_shards)
    assert result["parameters"] == parameter_count(MODELS[0].config(400))
    assert set(result["validation_loss"]) == {"8"}


def test_claimed_rows_have_the_parameters_that_are_claimed() -> None:
    counts = {model.name: parameter_count(model.config(2048)) for model in MODELS if not model.peer}
    ordinary = counts["ordinary, D layers"]
    assert counts["K = D"] == pytest.approx(ordinary, rel=0.005)
    assert counts["K = D/2, any depth"] == pytest.approx(counts["ordinary, D/2 layers"], rel=0.006)
    assert counts["Llama, D layers"] == pytest.approx(ordinary, rel=0.005)
