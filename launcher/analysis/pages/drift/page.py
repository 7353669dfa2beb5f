"""The page of a monitor: one HTML file that needs no network and no other file."""

from __future__ import annotations

from typing import Any

from launcher.analysis.pages.drift.figures import figures
from launcher.analysis.pages.drift.words import WORDS, headline, rows, trust, verdict
from launcher.analysis.pages.page import render


def page(content: dict[str, Any]) -> str:
    """The page of a ``drift.json``."""
    return render(
        "drift/page.html",
        content=content,
        headline=headline(content),
        sentences=verdict(content)[1:-1],
        trust=trust(content),
        rows=rows(content),
        words=WORDS,
        figures=figures(content),
    )
