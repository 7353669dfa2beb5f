"""``docs/faults.md`` names a test beside each promise, and every fault test stands beside one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAULTS = ROOT / "tests" / "faults"
PAGE = (ROOT / "docs" / "faults.md").read_text()


def test_every_test_that_is_named_is_there() -> None:
    for name in re.findall(r"`([\w/]*test_\w+\.py)`", PAGE):
        assert (ROOT / name if "/" in name else FAULTS / name).is_file(), name


def test_every_fault_test_is_named() -> None:
    named = set(re.findall(r"test_\w+\.py", PAGE))
    assert {path.name for path in FAULTS.glob("test_*.py")} <= named


def test_every_promise_has_a_test_beside_it() -> None:
    table = PAGE.split("| what happens | what the run does | test in `tests/faults/` |\n|---|---|---|\n")[1]
    rows = table.split("\n\n")[0].splitlines()
    assert len(rows) > 30
    tests = [row.strip("|").split(" | ")[-1] for row in rows]
    for row, before, test in zip(rows, ["", *tests], tests, strict=False):
        assert re.search(r"test_\w+\.py`", before if test.strip() == "the same" else test), row
