"""Percentages and tokens as text."""

from __future__ import annotations


def percent(part: float) -> str:
    """A fraction in percent, to two significant digits; small ones to one."""
    value = 100 * part
    if value == 0 or abs(value) >= 0.095:
        return f"{value:.0f}\N{NO-BREAK SPACE}%" if abs(value) >= 10 else f"{value:.2g}\N{NO-BREAK SPACE}%"
    return f"{value:.1g}\N{NO-BREAK SPACE}%"


def shown(token: str) -> str:
    """A token's text with whitespace made visible."""
    return token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣") or "∅"
