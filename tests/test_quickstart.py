"""The quick start itself, at its full length."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ODEFORMER = Path(sys.executable).parent / "odeformer"

pytestmark = pytest.mark.slow


def check(folder: Path) -> None:
    summary = json.loads((folder / "runs" / "quickstart" / "summary.json").read_text())
    assert summary["validation_loss_after"] < summary["validation_loss_before"] - 2
    assert summary["bits_per_byte"] < summary["gzip_bits_per_byte"]
    assert set(summary["depth_losses"]) == {"4", "8", "16"}
    spread = max(summary["depth_losses"].values()) - min(summary["depth_losses"].values())
    assert spread < 0.1, "one checkpoint should serve all three depths"
    assert summary["parameters"] < summary["ordinary_parameters"]
    assert summary["peak_bytes"]["checkpoint"] < 0.5 * summary["peak_bytes"]["direct"]
    docs, triage = summary["finetunes"]
    assert (docs["team"], docs["metric"], triage["team"], triage["metric"]) == (
        "docs",
        "loss",
        "triage",
        "accuracy",
    )
    assert docs["after"] < docs["before"]
    assert triage["after"] > triage["before"]
    assert {docs["base_version"], triage["base_version"]} == {summary["registered_version"]} == {"1"}


def test_it_says_what_it_does_and_what_came_out(tmp_path: Path) -> None:
    done = subprocess.run([ODEFORMER, "quickstart"], cwd=tmp_path, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    check(tmp_path)
    for shown in ("models:/tiny@champion", "bits/byte", "gzip", "N = 16", "mlflow ui", "odeformer generate"):
        assert shown in output
