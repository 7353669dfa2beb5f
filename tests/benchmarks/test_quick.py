"""The quick forms: which benchmarks have one, and what counts as confirmed."""

from __future__ import annotations

import re

import pytest

from benchmarks import figures, quick
from benchmarks.docs import RESULTS, ROOT, results


def test_every_benchmark_of_the_documents_has_a_quick_form() -> None:
    named = re.findall(r"^\| `python -m benchmarks\.(\S+) ", (ROOT / "docs/benchmarks.md").read_text(), re.M)
    assert set(named) - set(quick.LEFT_OUT) == {one.module for one in quick.BENCHMARKS}


@pytest.mark.parametrize("one", quick.BENCHMARKS, ids=lambda one: one.results)
def test_committed_results_confirm_themselves(one: quick.Quick) -> None:
    if (RESULTS / f"{one.results}.json").exists():
        found = one.figures(results(one.results))
        assert found
        assert quick.compare(found, found) == quick.Outcome(False, len(found), [])


def test_other_ratios_and_verdicts_are_not_confirmed() -> None:
    committed = {"ratio": 1.0, "claim": "reached", "identical": True, "rows that quick leaves out": 2.0}
    assert not quick.compare(committed, {"ratio": 1.2, "claim": "reached", "identical": True}).lines
    outcome = quick.compare(committed, {"ratio": 1.5, "claim": "MISSED", "identical": True})
    assert outcome.compared == 3
    assert outcome.lines == ["ratio: committed 1, now 1.5", "claim: committed reached, now MISSED"]


def test_numbers_are_found_by_the_word_ratio_and_named_by_their_row() -> None:
    row = {"width": 256, "seconds": 3.0, "ratio_full": {"ratio": 1.1, "low": 1.0, "high": 1.2}, "same": True}
    assert figures.ratios({"rows": [row], "date": "2026-11-30"}) == {
        "rows 256 ratio_full ratio": 1.1,
        "rows 256 same": True,
    }
