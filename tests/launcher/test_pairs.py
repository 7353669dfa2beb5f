"""The heat map of tokens: which number is where, and what its colors mean."""

from __future__ import annotations

import math
from typing import Any

import pytest
from matplotlib.colors import to_rgb

from launcher.analysis.pages.figures import logarithms, pairs, reach
from launcher.analysis.pages.plots import SCALE


def content(growth: list[list[float | None]], outputs: list[int]) -> dict[str, Any]:
    of = {"settings": {"probes": 4}, "outputs": outputs, "growth": growth}
    return {"tokens": ["<b>", " of", "\n", "end"], "pairs": of}


def test_every_pair_is_in_its_place_and_later_tokens_are_empty() -> None:
    given = content([[2.0, 100.0], [1.0, 10.0, 0.0, 1000.0]], [1, 3])
    (heat,) = pairs(given).data
    assert list(heat.x) == [1, 2, 3, 4]
    assert list(heat.y) == [2, 4]
    assert heat.z[0] == pytest.approx((math.log10(2), 2, None, None))
    assert heat.z[1] == pytest.approx((0, 1, 0, 3)), "nothing at all has the color of the least"
    assert (heat.zmin, heat.zmax) == (0, 3)
    assert heat.text[1][1] == "“␣of” (token 2)<br>→ “end” (token 4):<br>10 × as large"
    assert heat.text[0][0].startswith("“&lt;b&gt;” (token 1)"), "a token is text, not markup"
    assert list(heat.colorbar.ticktext) == ["1 ×", "32 ×", "1,000 ×"]
    assert pairs(given).layout.yaxis.autorange == "reversed", "the first token on top"


def test_the_most_is_dark_and_the_least_is_not_white() -> None:
    lightness = [sum(to_rgb(color)) / 3 for _, color in SCALE]
    assert lightness == sorted(lightness, reverse=True)
    assert lightness[0] < 0.92, "empty squares are white"
    assert lightness[-1] < 0.2


@pytest.mark.parametrize("growth", [[[0.0], [0.0, 0.0]], [[3.0], [3.0, 3.0]], [[None], [1.0, None]]])
def test_numbers_without_a_range_or_a_logarithm_are_drawn(growth: list[list[float | None]]) -> None:
    given = content(growth, [0, 1])
    least, most = reach(growth)
    assert 0 < least < most
    drawn = logarithms(growth, 4, least)
    assert all(value is None or value >= math.log10(least) for row in drawn for value in row)
    assert [len(row) for row in drawn] == [4, 4]
    pairs(given).to_json()
