"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Config = Annotated[str, typer.Argument(help="A YAML file or the name of a preset.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Model = Annotated[
    str, typer.Option(help="models:/<name>@<alias>, models:/<name>/<version>, or a checkpoint folder.")
]
Depth = Annotated[
    int | None, typer.Option(min=1, help="Number of solver cells N; the model's depth by default.")
]
Depths = Annotated[
    list[int] | None,
    typer.Option("--depth", min=1, help="Depth N, may be repeated; the model's or run's own by default."),
]
AttachedAdapter = Annotated[
    str | None, typer.Option(help="Adapter to attach: models:/<name>/<version> or a folder.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
TrackingUri = Annotated[str | None, typer.Option(help="MLflow tracking URI; runs/mlflow.db by default.")]
PoolAddress = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS",
        help="Ray cluster, as host:6379 or from outside ray://host:10001; this machine's by default.",
    ),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until the job ends.")]
Watch = Annotated[bool, typer.Option("--watch", help="Refresh every second until Ctrl-C.")]
