"""A display that refreshes itself until Ctrl-C."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from launcher.terminal import live


def test_it_is_refreshed_until_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EVERY_SECONDS", 0.01)
    made = 0

    def make() -> str:
        nonlocal made
        made += 1
        if made == 4:
            raise KeyboardInterrupt
        return f"made {made}"

    shown = io.StringIO()
    live.show_until_interrupted(make, Console(file=shown, force_terminal=True, color_system=None))
    for number in (1, 2, 3):
        assert f"made {number}" in shown.getvalue()
