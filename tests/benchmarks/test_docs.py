"""The generated pages and marked parts of the documents, and what the documents conclude from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.cluster import simulation
from benchmarks.docs import PARTS, ROOT, outdated, replace, results
from odeformer.analysis.answers.attribution import DEFAULT


def test_every_document_matches_the_results() -> None:
    assert list(outdated()) == []


def test_a_changed_number_is_found_and_corrected(tmp_path: Path) -> None:
    for document in {part.document for part in PARTS}:
        (tmp_path / document).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / document, tmp_path / document)
    assert outdated(tmp_path) == {}
    for document, wrong in (("docs/quality.md", ("MISSED", "reached")), ("docs/pool.md", ("1.5 s", "1.4 s"))):
        path = tmp_path / document
        text = path.read_text()
        path.write_text(text.replace(*wrong))
        assert outdated(tmp_path) == {path: text}
        path.write_text(text)


def test_a_part_is_replaced_between_its_marks_only() -> None:
    inline = "It takes <!-- generated: a -->1 s<!-- /generated: a --> at most."
    assert replace(inline, "a", "2 s", "x.md") == inline.replace("1 s", "2 s")
    block = "<!-- generated: a -->\nold\n\nold\n<!-- /generated: a -->\nafter <!-- generated: b -->"
    new = "<!-- generated: a -->\nnew\n<!-- /generated: a -->\nafter <!-- generated: b -->"
    assert replace(block, "a", "new", "x.md") == new
    with pytest.raises(ValueError, match=r"x\.md has 0 parts marked “generated: b”"):
        replace(block, "b", "new", "x.md")


def test_traffic_follows_the_stored_parameters_of_every_model() -> None:
    rows = results("traffic")["rows"]
    bytes_each = {(row["stage"], round(row["bytes"] / row["parameters"], 2)) for row in rows}
    assert len(bytes_each) == 4, "one value for each stage"


def test_published_fractions_of_training_lie_between_the_two_restarts() -> None:
    rows = results("simulation")["rows"]
    runs = [row for row in rows if row["kind"] == "run"]
    for short, long in zip(runs[::2], runs[1::2], strict=True):
        published = float(short["training_said"].split()[-2]) / 100
        assert long["training"]["median"] < published < short["training"]["median"]
    # The results do not depend on the machine, so the planner must still give them.
    assert next(simulation.long_rows()) == runs[0]
    for row, stored in zip(simulation.step_rows(), rows[len(runs) :], strict=True):
        assert row["many_found"] == pytest.approx(stored["many_found"])
        assert row["mfu_whole_square"] == pytest.approx(stored["mfu_whole_square"])


def test_the_default_attribution_is_the_most_faithful_one() -> None:
    best = results("faithfulness")["judgement"]["best"]
    assert best["deletion"] == best["insertion"] == DEFAULT
