"""The result of ``odeformer plan --simulate``."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType

from cluster.planning import Estimate
from cluster.planning.simulation import DAY
from launcher.tables.estimate import duration
from launcher.terminal.console import make_table


def simulation_report(given: Estimate, simulated: dict[str, Any]) -> list[RenderableType]:
    """Duration, goodput and lost time of simulated runs, compared with the formula's goodput."""
    assumed, goodput = simulated["happens"], simulated["goodput"]
    low, median, high = (duration(DAY * simulated["days"][name]) for name in ("low", "median", "high"))
    table = make_table("share of the time", numbers=("%",))
    for part, share in simulated["parts"].items():
        table.add_row(part, f"{share:.2%}".removesuffix("%"))
    return [
        f"simulated {simulated['runs']} times (seed {simulated['seed']}), median, 5 % and 95 %:",
        f"the run: {median} [{low}, {high}]",
        f"goodput: {goodput['median']:.2%} [{goodput['low']:.2%}, {goodput['high']:.2%}]; by the formula "
        f"{given.reliability.goodput:.2%}",
        f"mean: {simulated['failures']:,.1f} failures, {simulated['preemptions']:,.1f} preemptions; assumed: "
        f"{assumed['spares']} spare nodes, {assumed['restart_seconds'] / 60:,.0f} min per restart, "
        f"a commit is durable {assumed['write_seconds']:,.1f} s after it was copied",
        table,
    ]
