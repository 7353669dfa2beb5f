"""Progress outside a terminal, as in a log file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from waiting import wait_for

from launcher.terminal import progress as progress_module
from launcher.terminal.progress import Progress


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


def test_a_failed_stage_is_not_ticked_off() -> None:
    out = io.StringIO()
    progress = Progress(Console(file=out, width=120))
    try:
        with progress.stage("failing"):
            raise RuntimeError("no")
    except RuntimeError:
        pass
    assert "✓" not in out.getvalue()
