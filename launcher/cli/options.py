"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

Config = Annotated[str, Argument(help="A YAML file or the name of a preset.")]
Overrides = Annotated[
    list[str] | None, Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting; may be repeated.")
]
AsJson = Annotated[bool, Option("--json", help="Print JSON instead of a table.")]
Model = Annotated[str, Option(help="models:/<name>@<alias>, models:/<name>/<version>, or a folder.")]
Depth = Annotated[int | None, Option(min=1, help="Number of solver cells N; the model's depth by default.")]
Depths = Annotated[list[int] | None, Option("--depth", min=1, help="Depth N; may be repeated.")]
AttachedAdapter = Annotated[str | None, Option(help="Adapter to attach: models:/<name>/<version> or folder.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace the output if it exists.")]
TrackingUri = Annotated[str | None, Option(help="MLflow tracking URI; runs/mlflow.db by default.")]
PoolAddress = Annotated[
    str | None,
    Option(
        envvar="RAY_ADDRESS",
        help="Ray cluster, as host:6379 or from outside ray://host:10001; this machine's by default.",
    ),
]
Follow = Annotated[bool, Option("--follow", "-f", help="Keep printing until the job ends.")]
Watch = Annotated[bool, Option("--watch", help="Refresh every second until Ctrl-C.")]
