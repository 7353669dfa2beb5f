"""Progress outside a terminal, as in a log file."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from logged_runs import troubled
from rich.console import Console
from waiting import wait_for

from cluster.settings import PretrainSettings
from launcher.terminal import progress as progress_module
from launcher.terminal.pretrain_watcher import PretrainWatcher
from launcher.terminal.progress import Progress, last_line

SETTINGS: dict[str, Any] = {
    "model": {"width": 16, "heads": 2, "depth": 4, "basis": {"size": 2}},
    "data": {"shards": "shards"},
    "train": {"steps": 20, "global_batch": 8, "micro_batch": 2},
    "run": {"dir": "run"},
}


def test_a_silent_stage_still_shows_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    assert progress_module.HEARTBEAT_SECONDS < 3
    monkeypatch.setattr(progress_module, "HEARTBEAT_SECONDS", 0.05)
    progress = Progress(Console(file=out, width=120))
    with progress.stage("waiting"):
        progress.update(0.25, "for nothing")
        wait_for(lambda: out.getvalue().count("for nothing") >= 2)
    lines = out.getvalue().splitlines()
    assert sum("waiting  25%" in line and "for nothing" in line for line in lines) >= 2
    assert "✓ waiting" in lines[-1]


def test_a_long_stage_fills_no_log_with_its_lines() -> None:
    elapsed, lines = 0.0, 0
    while elapsed < 24 * 3600:
        pause = progress_module.seconds_until_line(elapsed)
        assert pause <= 300, "it is seen to be alive"
        elapsed, lines = elapsed + pause, lines + 1
    assert lines < 400


@pytest.mark.parametrize(("step", "is_said"), [(3, False), (4, True), (5, True)])
def test_a_run_that_has_nothing_left_to_train_says_so(step: int, is_said: bool) -> None:
    content = {**SETTINGS, "train": {"steps": 4, "global_batch": 8, "micro_batch": 2}}
    out = io.StringIO()
    watcher = PretrainWatcher(PretrainSettings.model_validate(content), Progress(Console(file=out)))
    watcher({"time": 0.0, "event": "resumed", "step": step, "workers": 1, "reason": "why"})
    said = f"nothing to train: train.steps is 4, and step {step} is committed"
    assert (said in out.getvalue()) == is_said


def test_a_failed_stage_is_not_ticked_off() -> None:
    out = io.StringIO()
    progress = Progress(Console(file=out, width=120))
    try:
        with progress.stage("failing"):
            raise RuntimeError("no")
    except RuntimeError:
        pass
    assert "✓" not in out.getvalue()


def test_the_last_line_of_progress_in_a_log_has_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "HEARTBEAT_SECONDS", 0.01)
    out = io.StringIO()
    progress = Progress(Console(file=out, width=120))
    settings = PretrainSettings.model_validate(SETTINGS)
    with progress.stage("pretraining in /shared/runs/first"):
        watcher = PretrainWatcher(settings, progress)
        for step in range(1, 9):
            event = {"time": 2.0 * step, "event": "step", "step": step, "loss": 2.5, "depth": 4}
            watcher({**event, "tokens_per_second": 100.0})
        wait_for(lambda: "step 8/20" in out.getvalue())
    progress.console.print("  weights: /shared/runs/first/final")
    line = last_line(out.getvalue())
    assert line is not None
    assert line.startswith("pretraining in /shared/runs/first  40%")
    assert line.endswith("step 8/20 · loss 2.500 · N=4 · 100 tokens/s · 24 s left [24 s, 24 s]")
    assert last_line("  weights: x\n") is None


def test_a_run_ends_with_its_goodput_beside_the_simulation(tmp_path: Path) -> None:
    folder = troubled().write(tmp_path / "run")
    content = {**SETTINGS, "run": {"dir": folder}, "checkpoint": {"every": 10}}
    out = io.StringIO()
    watcher = PretrainWatcher(
        PretrainSettings.model_validate(content), Progress(Console(file=out, width=200))
    )
    watcher({"time": 0.0, "event": "goodput", "step": 30})
    first, second = out.getvalue().splitlines()
    assert re.match(r"  goodput 12\.\d% of 3\.9 min: restart ", first)
    assert re.match(r"  simulated with the same 4 starts: 1\d\.\d%$", second)
