"""Runs and jobs as tables: a list, one of them, two compared, and what held one up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.console import RenderableType
from rich.table import Table

from cluster.runs.findings import Finding
from cluster.runs.record import Curve
from launcher.runs import Run, Values
from launcher.terminal.console import make_table
from launcher.terminal.curves import sparkline
from launcher.terminal.durations import duration, in_words, moment
from launcher.terminal.goodput import goodput_lines

UNSHOWN = "–"


def content(run: Run) -> dict[str, object]:
    """What is known of a run, for JSON."""
    record = run.record
    left = record.pace.left(run.steps) if record.state == "running" else None
    return {
        "run": run.name,
        "state": record.state,
        "step": record.step,
        "steps": run.steps,
        "began": record.began,
        "time_left": None if left is None else asdict(left),
        **record.account.metrics(),
        "last_step": record.last_step,
        "validation": {name: latest(curve) for name, curve in record.curves.items() if name != "loss"},
    }


def latest(curve: Curve) -> float:
    """The value at the last step."""
    return curve[max(curve)]


def runs_table(runs: Sequence[Run]) -> Table:
    """A row for each run or job."""
    table = make_table("run", "state", "began", numbers=("step", "loss", "goodput"), wrapped=("time left",))
    for run in runs:
        record = run.record
        loss = UNSHOWN if record.last_step is None else f"{record.last_step['loss']:.3f}"
        left = record.pace.left(run.steps) if record.state == "running" else None
        goodput = f"{record.account.goodput:.1%}" if record.account.steps else UNSHOWN
        table.add_row(
            run.name,
            record.state,
            moment(record.began),
            f"{record.step}/{run.steps}",
            loss,
            goodput,
            in_words(left),
        )
    return table


def run_report(run: Run) -> list[RenderableType]:
    """A run's state, its last numbers, and where its time went."""
    record = run.record
    lines: list[RenderableType] = [
        f"{run.name}: {record.state}, step {record.step} of {run.steps}, began {moment(record.began)}"
    ]
    if record.state == "running" and (left := in_words(record.pace.left(run.steps))):
        lines.append(left)
    lines += goodput_lines(record.account, run.checkpoint)
    table = make_table("", numbers=("last", "lowest"))
    for name, curve in sorted(record.curves.items()):
        finite = [value for value in curve.values() if math.isfinite(value)]
        table.add_row(name, f"{latest(curve):.4f}", f"{min(finite):.4f}" if finite else UNSHOWN)
    if record.last_step is not None:
        table.add_row("tokens/s", f"{record.last_step['tokens_per_second']:,.0f}", "")
    return [*lines, table, f"odeformer runs why {run.name} says what held it up"]


def comparison_report(first: Run, second: Run, differing: Mapping[str, Values]) -> list[RenderableType]:
    """The settings in which two runs differ, their numbers, and their curves on a common scale."""
    runs = (first, second)
    settings = make_table("setting", first.name, second.name)
    for name, values in differing.items():
        settings.add_row(name, *map(str, values))
    numbers = make_table("", numbers=(first.name, second.name))
    for name, values in compared_numbers(first, second).items():
        numbers.add_row(name, *values)
    report: list[RenderableType] = [
        settings if differing else "no setting differs",
        "",
        numbers,
    ]
    last = max(run.record.step for run in runs)
    for name in common_curves(first, second):
        curves = [run.record.curves[name] for run in runs]
        finite = [value for curve in curves for value in curve.values() if math.isfinite(value)]
        low, high = min(finite, default=0.0), max(finite, default=1.0)
        report += ["", f"{name}, from {low:.3f} to {high:.3f}, to step {last}"]
        report += [
            f"{mark} {sparkline(curve, last, low, high)} {latest(curve):.4f}"
            for mark, curve in zip("AB", curves, strict=True)
        ]
    return report


def compared_numbers(first: Run, second: Run) -> dict[str, tuple[str, str]]:
    """Numbers of two runs by what they are."""

    def of(run: Run) -> dict[str, str]:
        record = run.record
        numbers = {
            "state": record.state,
            "steps": f"{record.step} of {run.steps}",
            "time": duration(record.account.wall),
            "goodput": f"{record.account.goodput:.1%}",
            "restarts": str(max(0, len(record.account.accidents) - 1)),
        }
        if record.last_step is not None:
            numbers["tokens"] = f"{record.last_step['tokens']:,}"
            numbers["tokens/s, last step"] = f"{record.last_step['tokens_per_second']:,.0f}"
        return numbers | {name: f"{latest(curve):.4f}" for name, curve in sorted(record.curves.items())}

    one, other = of(first), of(second)
    return {
        name: (one.get(name, UNSHOWN), other.get(name, UNSHOWN)) for name in dict.fromkeys([*one, *other])
    }


def common_curves(first: Run, second: Run) -> list[str]:
    """The curves that both runs have."""
    return sorted(name for name in first.record.curves if name in second.record.curves)


def why_report(run: Run, found: Sequence[Finding]) -> list[RenderableType]:
    """What held a run up, each with what to do about it."""
    report = run_report(run)[:-1]
    if not found:
        return [*report, "nothing held it up"]
    for finding in found:
        report += ["", f"• {finding.what}"]
        if finding.todo:
            report.append(f"  → {finding.todo}")
    return report
