"""The quick start itself, at its full length."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ODEFORMER = Path(sys.executable).parent / "odeformer"

pytestmark = pytest.mark.slow


def start(folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [ODEFORMER, "quickstart"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def longest_silence(process: subprocess.Popen[str]) -> tuple[float, str]:
    """Read a process's output to its end; the longest time in seconds without a line, and the output."""
    assert process.stdout is not None
    lines, silence, last = [], 0.0, time.monotonic()
    for line in process.stdout:
        silence, last = max(silence, time.monotonic() - last), time.monotonic()
        lines.append(line)
    return silence, "".join(lines)


def check(folder: Path) -> dict[str, object]:
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
    assert {docs["base_version"], triage["base_version"]} == {summary["registered_version"]}
    return summary


def test_never_silent_then_once_more_in_its_folder_beside_one_in_another(tmp_path: Path) -> None:
    first = start(tmp_path / "one")
    silence, output = longest_silence(first)
    assert first.wait() == 0, output
    summary = check(tmp_path / "one")
    assert silence < 10, "3 s on an idle machine; tests share theirs"
    for shown in ("models:/tiny@champion", "bits/byte", "gzip", "N = 16", "mlflow ui", "odeformer generate"):
        assert shown in output

    both = [start(tmp_path / name) for name in ("one", "two")]
    outputs = [process.communicate(timeout=3000)[0] for process in both]
    for process, output, name in zip(both, outputs, ("one", "two"), strict=True):
        assert process.returncode == 0, output
        assert check(tmp_path / name)["registered_version"] == "1"
    # The same text, seed and machine give the same weights, and those make no second version.
    assert check(tmp_path / "one")["depth_losses"] == summary["depth_losses"]
