"""Colours that people who see colours differently can tell apart (Okabe and Ito 2008)."""

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#595959"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, "#56B4E9", "#E69F00", "#000000", GREY)
SCALE = ((0.0, "#d6e7f4"), (0.5, BLUE), (1.0, "#001a2e"))
"""From little to much: the least is still not the page's white, and the most is dark."""
