"""A page opened from a file, with all that its browser complains of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SCREENSHOTS = Path(__file__).parents[2] / "build/report"


class WatchedPage:
    """At the width of a phone or of a screen."""

    def __init__(self, browser: Any, file: Path, width: int) -> None:
        self.page, self._width = browser.new_page(viewport={"width": width, "height": 900}), width
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._note_network)
        self.page.goto(file.as_uri())

    def _note_network(self, request: Any) -> None:
        if request.url.startswith("http"):
            self.complaints.append(request.url)

    def close(self, name: str) -> None:
        """Keep a picture of it, for people to look at, and see that there was nothing to complain of."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.evaluate("scrollTo(0, 0)")
        self.page.screenshot(path=SCREENSHOTS / f"{name}-{self._width}.png", full_page=True)
        self.page.close()
        assert self.complaints == []
