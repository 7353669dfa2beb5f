"""What a dry run shows."""

from __future__ import annotations

from collections.abc import Mapping

import yaml
from rich.console import Console
from rich.table import Table

from cluster.planning.dry_run import DryRun


def show_dry_run(made: DryRun, console: Console) -> None:
    """The resolved settings, where the workers would be, and what each one's memory goes to."""
    settings, placement = made.settings, made.placement
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    passes = made.deepspeed["gradient_accumulation_steps"]
    lines = [
        f"a step: {settings.train.global_batch} sequences of {settings.data.sequence_length} tokens = "
        f"{placement.workers} workers × {settings.train.micro_batch} × "
        f"{settings.train.global_batch // settings.train.micro_batch // placement.workers}, "
        f"in {passes} passes each",
        f"placement: {placement.workers} workers with {_amounts(placement.each)} each",
    ]
    for node in placement.nodes:
        holds = "" if settings.cluster.address is None else f", room for {node.workers} workers"
        lines.append(f"  {node.name}: {_amounts(node.resources)}{holds}")
    if placement.lacks:
        lines.append(f"  it would wait for {placement.lacks}")
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    console.print(_memory_table(made))
    console.print(
        "an estimate: what is held between passes is exact, what a pass needs is not; what the process and "
        "its libraries take comes on top",
        highlight=False,
        soft_wrap=True,
    )


def _memory_table(made: DryRun) -> Table:
    table = Table("memory of a worker", box=None, header_style="bold", pad_edge=False)
    columns = {"device": made.memory.device} | ({"host": made.memory.host} if made.memory.host else {})
    for title in columns:
        table.add_column(f"{title}, MiB", justify="right")
    for part in dict.fromkeys(name for column in columns.values() for name in column):
        table.add_row(part, *(_mebibytes(column.get(part, 0)) for column in columns.values()))
    table.add_row("together", *(_mebibytes(sum(column.values())) for column in columns.values()))
    return table


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f}"


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
