"""What the doctor found, a line for each."""

from __future__ import annotations

from rich.text import Text

from cluster.doctor import Finding

STYLES = {"ok": "green", "note": "yellow", "failed": "bold red"}
WIDTHS = 6, 16
"""Of the columns of states and names."""


def line(finding: Finding) -> Text:
    """A state, a name, what was found, and at the end its remedy."""
    state, name = WIDTHS
    shown = Text(f"{finding.state:<{state}}  ", STYLES[finding.state])
    shown.append(f"{finding.name:<{name}}  {finding.found}", "default not bold")
    if finding.remedy:
        shown.append(f" → {finding.remedy}", "default bold")
    return shown
