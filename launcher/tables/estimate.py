"""What a planned run shows in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.planning import Estimate

SHOWN = 6
"""Choices, of those there are; the run as it is configured is shown in any case."""


def show_estimate(given: Estimate, ordered: Sequence[Estimate], console: Console) -> None:
    """The run as it is configured; then what else it could be, the fastest first."""
    for line in _lines(given):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(_parts(given))
    console.print(_choices(given, ordered))
    best = ordered[0]
    if not best.fits:
        advice = "nothing fits: more memory, a smaller model, or zero.offload_optimizer=cpu"
    elif _same(best, given):
        advice = "as it is configured it is the fastest of these"
    else:
        advice = f"the fastest that fits: {_as_settings(best)}"
    console.print(advice, highlight=False, soft_wrap=True)
    console.print(
        "memory and bytes are checked against real workers; times are a model: nothing overlaps, products at "
        f"{given.machines.efficiency:.0%} of the peak (--efficiency: measure it on one GPU)",
        highlight=False,
        soft_wrap=True,
    )


def _lines(made: Estimate) -> list[str]:
    found, machines, train = made.content(), made.machines, made.settings.train
    tokens = train.global_batch * made.settings.data.sequence_length
    used, there = made.memory.total()[0] / 1e9, machines.gpu.memory / 1e9
    nodes = -(-machines.gpus // machines.gpu.per_node)
    cost = [duration(86400 * found["days"])]
    cost += [f"{found['gpu_hours']:,.0f} GPU hours", f"{found['megawatt_hours']:,.2f} MWh"]
    cost += [] if found["price"] is None else [f"{found['price']:,.0f} for it all"]
    named = "node" if nodes == 1 else "nodes"
    every = f"a commit every {duration(found['commit_every'])}, {found['commit_seconds']:.2f} s each"
    return [
        f"{machines.gpus} × {machines.gpu.name} on {nodes} {named}, {machines.network.name} between them",
        f"memory: {used:,.1f} of {there:,.0f} GB each" + ("" if made.fits else " – IT DOES NOT FIT"),
        f"a step: {tokens:,} tokens in {_seconds(made.step_seconds)}, MFU {made.utilization:.1%}",
        f"the run: {train.steps:,} steps, {train.steps * tokens / 1e9:,.1f} G tokens at "
        f"{found['tokens_per_day'] / 1e9:,.1f} G a day: {', '.join(cost)}",
        f"failures: {found['failures_per_day']:.2f} a day expected; {every}; "
        f"{found['goodput']:.2%} of the time is work that lasts",
    ]


def _parts(made: Estimate) -> Table:
    memory = {name: size for name, size in made.memory.device.items() if size}
    rows = max(len(memory), len(made.seconds), len(made.bytes_sent))
    table = Table("memory", box=None, header_style="bold", pad_edge=False)
    table.add_column("GB", justify="right")
    table.add_column("time of a step")
    table.add_column("", justify="right")
    table.add_column("sent in a step")
    table.add_column("GB", justify="right")
    columns = [
        [(name, f"{size / 1e9:,.2f}") for name, size in memory.items()],
        [(name, _seconds(spent)) for name, spent in made.seconds.items()],
        [(name.replace("_", "-"), f"{size / 1e9:,.2f}") for name, size in made.bytes_sent.items()],
    ]
    for row in range(rows):
        table.add_row(*(cell for column in columns for cell in ((*column, *[("", "")] * rows)[row])))
    return table


def _choices(given: Estimate, ordered: Sequence[Estimate]) -> Table:
    table = Table("ZeRO stage", "gradient", box=None, header_style="bold", pad_edge=False)
    for title in ("micro-batch", "memory, GB", "step", "MFU", "G tokens a day"):
        table.add_column(title, justify="right")
    shown = list(ordered[:SHOWN])
    if not any(_same(one, given) for one in shown):
        shown.append(given)
    for one in shown:
        cells = (
            str(one.settings.zero.stage),
            one.settings.train.gradient,
            f"{one.settings.train.micro_batch}",
            f"{one.memory.total()[0] / 1e9:,.1f}" + ("" if one.fits else " too much"),
            _seconds(one.step_seconds),
            f"{one.utilization:.1%}",
            f"{one.content()['tokens_per_day'] / 1e9:,.1f}",
        )
        table.add_row(*(Text(cell, style="bold" if _same(one, given) else "") for cell in cells))
    return table


def _same(one: Estimate, other: Estimate) -> bool:
    return _as_settings(one) == _as_settings(other)


def _as_settings(made: Estimate) -> str:
    train = made.settings.train
    return (
        f"--set zero.stage={made.settings.zero.stage} --set train.gradient={train.gradient} "
        f"--set train.micro_batch={train.micro_batch}"
    )


def _seconds(value: float) -> str:
    return f"{1000 * value:,.1f} ms" if value < 1 else f"{value:,.2f} s"


def duration(value: float) -> str:
    """Of seconds, in the unit that fits."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "min")):
        if value >= 2 * size:
            return f"{value / size:,.1f} {unit}"
    return f"{value:,.0f} s"
