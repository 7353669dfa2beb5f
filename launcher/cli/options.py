"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Model = Annotated[str, typer.Option(help="models:/<name>@<alias>, models:/<name>/<version>, or a folder.")]
Depth = Annotated[int | None, typer.Option(help="N, the solver cells; the model depth when not given.")]
AttachedAdapter = Annotated[
    str | None, typer.Option(help="An adapter to attach, models:/<name>/<version> or a folder.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")]
TrackingUri = Annotated[
    str | None, typer.Option(help="The MLflow store; runs/mlflow.db here when not given.")
]
PoolAddress = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS",
        help="Of the cluster, host:6379, or from outside ray://host:10001; this machine's when not given.",
    ),
]
