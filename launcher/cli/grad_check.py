"""``odeformer grad-check``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from launcher import preflight
from launcher.cli.options import AsJson, Overrides


def grad_check(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")],
    overrides: Overrides = None,
    depth: Annotated[
        list[int] | None, typer.Option(min=1, help="N, may be repeated; the run's own depths when not given.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Trained weights to check: models:/<name>@<alias> or a folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Error, memory and time of every gradient method. Example: odeformer grad-check tiny"""
    from launcher.configuration.load import load_pretrain
    from launcher.terminal.console import make_console

    settings = load_pretrain(config, overrides or [])
    preflight.at_shards(settings.data.shards)
    if model is not None:
        preflight.at_model(model, settings.tracking.uri)
    from launcher import grad_check as checking
    from launcher.tables.results import gradients_table

    found = checking.grad_check(settings, depth or [], model)
    if as_json:
        print(json.dumps([row for rows in found for row in rows], indent=2))
        return
    console = make_console()
    for rows in found:
        title = f"N = {rows[0]['depth']}, {rows[0]['dtype']}, batch {settings.train.micro_batch} × "
        console.print(f"{title}{settings.data.sequence_length}", style="bold", highlight=False)
        console.print(gradients_table(rows))
    console.print(
        "error: of the whole gradient, relative, against backpropagation through the same solve (direct); "
        "beside it what rounding alone does to that one. saved: after the forward pass.",
        highlight=False,
    )
