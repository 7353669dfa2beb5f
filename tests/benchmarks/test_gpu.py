"""The GPU benchmark, rehearsed on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_rehearsal_writes_every_row_and_measures_none_again(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--json", str(out)]
    subprocess.run([*command, "--seconds", "0"], check=True)
    assert not out.exists() or json.loads(out.read_text())["rows"] == []
    subprocess.run(command, check=True)
    rows = {row["row"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["correctness"]["gradient_difference"] < 1e-5
    assert rows["memory reversible"]["bytes"]["16"] < 1.05 * rows["memory reversible"]["bytes"]["8"]
    assert {"memory checkpoint", "training small", "decoding", "zero 1", "zero 3", "quality"} < set(rows)
    assert rows["zero 1"]["losses"][1] < rows["zero 1"]["losses"][0]
    written = out.read_bytes()
    subprocess.run(command, check=True)
    assert out.read_bytes() == written
