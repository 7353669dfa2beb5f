"""The tutorial's commands, run as printed, in order, in a fresh folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BEGINS_WITH = ("make install\n", "source .venv/bin/activate\n")
"""Commands that have been run before any test."""

pytestmark = pytest.mark.slow


def commands(page: str) -> str:
    """All commands of the tutorial as one script."""
    blocks = [block for language, block in BLOCK.findall(page) if language == "bash"]
    for line in BEGINS_WITH:
        assert blocks[0].startswith(line)
        blocks[0] = blocks[0].removeprefix(line)
    # The doctor may find problems of this machine.
    assert "odeformer doctor\n" in blocks[0]
    blocks[0] = blocks[0].replace("odeformer doctor\n", "odeformer doctor || [ $? = 1 ]\n")
    return "".join(blocks)


def shape(line: str) -> str:
    """A line of output without what varies: numbers, digests, widths of columns."""
    line = re.sub(r"\b[0-9a-f]{12}\b", "#", line)
    return re.sub(r"\s+", " ", re.sub(r"\d[\d,.]*(e[+-]\d+)?", "#", line)).strip()


def test_a_newcomer_gets_from_text_to_an_adapter_an_export_and_a_report(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_", "MLFLOW_", "ODEFORMER_"))
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands(page)],
        cwd=tmp_path,
        env=kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "160"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3000,
    )
    (tmp_path / "output").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-5000:]
    printed = {shape(line) for line in done.stdout.splitlines()}
    for language, block in BLOCK.findall(page):
        for line in block.splitlines() if language == "" else ():
            assert shape(line) in printed, f"the page shows what is not printed: {line}"
    [before, after] = re.search(r"docs +logging +loss +([\d.]+) +([\d.]+)", done.stdout).groups()  # type: ignore[union-attr]
    assert float(after) < float(before), "the adapter has learned"
    assert (tmp_path / "first-4" / "model.safetensors").is_file()
    assert "<html" in (tmp_path / "seen" / "report.html").read_text(encoding="utf-8")
