"""The report as a browser shows it: chromium without a window, at the width of a phone and of a screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_checkpoint import small_checkpoint
from watched_page import WatchedPage

from launcher.analysis import analyze


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    checkpoint = small_checkpoint(folder)
    text = "def saved(folder):\n    return folder / FILE_NAME\n" * 3
    return analyze.analyze(str(checkpoint), None, text, folder / "seen", None, None)


@pytest.mark.parametrize("width", [360, 1440])
def test_everything_is_drawn_and_moves(report: Path, browser: Any, width: int) -> None:
    watched = WatchedPage(browser, report, width)
    page = watched.page
    places = page.locator("[data-figure]")
    assert places.count() == 12
    for index in range(places.count()):
        place = places.nth(index)
        place.locator(".main-svg").first.wait_for(state="visible")
        assert place.locator(".point, .js-line, .hm image").count() > 0, place.get_attribute("data-figure")
        box = place.bounding_box()
        assert 200 < box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"

    content = json.loads((report.parent / analyze.FILE).read_text())
    pairs = page.locator("[data-figure=pairs]").evaluate("e => e.data[0].z")
    given = [len(row) for row in content["pairs"]["growth"]]
    assert [len(row) - row.count(None) for row in pairs] == given
    told, tokens = page.locator("#told"), page.locator("#heat button")
    assert tokens.count() == len(content["tokens"])
    tokens.nth(2).hover()
    assert "(token 3) has" in told.inner_text()
    output = content["sensitivity"]["outputs"][5]
    tokens.nth(output).click()
    assert f"(token {output + 1}) the model expects" in told.inner_text()
    scores = content["sensitivity"]["scores"][5]
    strongest = tokens.nth(scores.index(max(scores)))
    assert "rgba(0, 114, 178, 0.95)" in strongest.evaluate("e => getComputedStyle(e).background")
    page.locator("#need button").nth(3).hover()
    assert "N = 8" in page.locator("#told-depth").inner_text()

    plot = page.locator("[data-figure=spectra-query_key]")
    plot.scroll_into_view_if_needed()
    first = plot.evaluate("e => e.data[0].x[0]")
    rail = plot.locator(".slider-rail-touch-rect")
    box = rail.bounding_box()
    page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
    page.wait_for_function("([e, x]) => e.data[0].x[0] !== x", arg=[plot.element_handle(), first])
    assert float(plot.locator(".slider-label").first.text_content().split("=")[-1]) > 0.7

    watched.close("report")
