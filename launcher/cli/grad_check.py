"""The command ``odeformer grad-check``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

from typer import Option

from launcher import preflight
from launcher.cli.options import AsJson, Config, Depths, Overrides
from launcher.cli.output import say, show


def grad_check(
    config: Config,
    overrides: Overrides = None,
    depth: Depths = None,
    model: Annotated[
        str | None, Option(help="Model to check instead of fresh weights, models:/… or a folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare gradient methods by error, memory and time.

    Example: odeformer grad-check tiny
    """
    from launcher.configuration.load import load_pretrain

    settings = load_pretrain(config, overrides or [])
    preflight.at_shards(*(source.shards for source in settings.data.mixed))
    if model is not None:
        preflight.at_model(model, settings.tracking.uri)
    from launcher.grad_check import grad_check as check
    from launcher.tables.results import gradients_table

    checked = check(settings, depth or [], model)
    if as_json:
        print(json.dumps([asdict(row) for rows in checked for row in rows], indent=2))
        return
    for rows in checked:
        batch = f"batch {settings.train.micro_batch} × {settings.data.sequence_length}"
        say(f"N = {rows[0].depth}, {rows[0].dtype}, {batch}")
        show(gradients_table(rows), rows, as_json=False)
    say(
        "error: relative error of the whole gradient, against backpropagation through the same solve "
        "(direct); rounding of direct: that gradient's own rounding error. saved: memory held after the "
        "forward pass."
    )
