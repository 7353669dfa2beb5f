"""The preview of a pretraining run."""

from __future__ import annotations

from collections.abc import Mapping

import yaml
from rich.console import RenderableType
from rich.table import Table

from cluster.planning.dry_run import DryRun
from cluster.settings import TrainSettings
from launcher.terminal.console import make_table


def dry_run_report(preview: DryRun) -> list[RenderableType]:
    """The resolved settings, the workers' placement, and the memory of each."""
    settings, placement, train = preview.settings, preview.placement, preview.settings.train
    lines = [
        yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        f"a step: {train.global_batch} sequences of {settings.data.sequence_length} tokens = "
        f"{placement.workers} workers × micro-batches of {train.micro_batch} × gradient accumulation "
        f"{train.global_batch // train.micro_batch // placement.workers}{_second_pass(train)}",
        f"placement: {placement.workers} workers with {_amounts(placement.each)} each",
    ]
    for node in placement.nodes:
        room = "" if settings.cluster.address is None else f", room for {node.workers} workers"
        lines.append(f"  {node.name}: {_amounts(node.resources)}{room}")
    if placement.lacks:
        lines.append(f"  it would wait for {placement.lacks}")
    return [
        *lines,
        _memory_table(preview),
        "memory held between passes is exact, memory of a pass is an estimate; the process and its libraries "
        "come on top",
    ]


def _second_pass(train: TrainSettings) -> str:
    if train.objective == "one_depth":
        return ""
    return f"; after {train.vary_from:.0%} of the steps, each micro-batch also runs at another depth"


def _memory_table(preview: DryRun) -> Table:
    columns = {"device": preview.memory.device}
    if preview.memory.host:
        columns["host"] = preview.memory.host
    table = make_table("memory of a worker", numbers=[f"{title}, MiB" for title in columns])
    parts = {part: None for column in columns.values() for part in column}
    for part in parts:
        table.add_row(part, *(_mebibytes(column.get(part, 0)) for column in columns.values()))
    table.add_row("together", *(_mebibytes(sum(column.values())) for column in columns.values()))
    return table


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f}"


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
