"""Numbers and times as the page shows them."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime


def duration(seconds: float) -> str:
    """A length of time in its two largest units, as ``2 h 05 min``."""
    whole = max(0, math.floor(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s" if whole < 600 else f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def ago(at: float) -> str:
    """A moment of the past, seen from now."""
    passed = time.time() - at
    if passed < 60:
        return "just now"
    return f"{passed // 60:.0f} min ago" if passed < 3600 else f"{duration(passed)} ago"


def iso(at: float) -> str:
    """A moment as programs read it."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def moment(at: float) -> str:
    """A moment in UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def score(value: float, metric: str) -> str:
    """A metric's value."""
    return f"{value:.1%}" if metric.partition("_")[0] == "accuracy" else f"{value:.3f}"


def metric_name(metric: str) -> str:
    """A metric's name, as ``loss at N = 4`` for ``loss_4``."""
    name, _, depth = metric.rpartition("_")
    return f"{name} at N = {depth}" if name and depth.isdecimal() else metric.replace("_", " ")


def hours(value: float) -> str:
    """A number of hours."""
    return f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"
