"""What simulated runs come to, in the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.planning import Estimate
from cluster.planning.simulation import DAY
from launcher.tables.estimate import duration


def show_simulated(given: Estimate, simulated: dict[str, Any], console: Console) -> None:
    """How long they took, what they lost, and to what; beside it what the formula says."""
    happens, goodput = simulated["happens"], simulated["goodput"]
    low, median, high = (duration(DAY * simulated["days"][name]) for name in ("low", "median", "high"))
    lines = [
        f"simulated {simulated['runs']} times (seed {simulated['seed']}), median, 5 % and 95 %:",
        f"the run: {median} [{low}, {high}]",
        f"work that lasts: {goodput['median']:.2%} [{goodput['low']:.2%}, {goodput['high']:.2%}] of the time"
        f"; the formula says {given.reliability.goodput:.2%}",
        f"in the mean {simulated['failures']:,.1f} failures, {simulated['preemptions']:,.1f} preemptions; "
        f"{happens['spares']} spare nodes, {happens['restart_seconds'] / 60:,.0f} min for a restart, "
        f"a commit is durable {happens['write_seconds']:,.1f} s after it was copied",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    table = Table("the time goes to", box=None, header_style="bold", pad_edge=False)
    table.add_column("%", justify="right")
    for part, share in simulated["parts"].items():
        table.add_row(part, f"{share:.2%}".removesuffix("%"))
    console.print(table)
