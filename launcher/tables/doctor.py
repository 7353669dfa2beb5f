"""A line for each finding of ``odeformer doctor``."""

from __future__ import annotations

from rich.text import Text

from cluster.doctor import Finding

STYLES = {"ok": "green", "note": "yellow", "failed": "bold red"}


def line(finding: Finding) -> Text:
    """State, name and finding, and its remedy if there is one."""
    text = Text(f"{finding.state:<6}  ", STYLES[finding.state])
    text.append(f"{finding.name:<16}  {finding.found}", "default not bold")
    if finding.remedy:
        text.append(f" → {finding.remedy}", "default bold")
    return text
