"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

Config = Annotated[
    str, Argument(help="YAML file, or a preset: tiny, small, medium, medium-lean, large, 1b, continue.")
]
Overrides = Annotated[
    list[str] | None,
    Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting; may be repeated."),
]
DryRun = Annotated[bool, Option("--dry-run", help="Show placement and memory, and exit without training.")]
DryRunAsJson = Annotated[bool, Option("--json", help="Print the dry run as JSON.")]
AsJson = Annotated[bool, Option("--json", help="Print JSON instead of a table.")]
Model = Annotated[str, Option(help="Model as models:/<name>@<alias>, models:/<name>/<version>, or a folder.")]
Depth = Annotated[
    int | None, Option(min=1, help="Number of layers N to run; the model's own depth D by default.")
]
Depths = Annotated[
    list[int] | None,
    Option("--depth", min=1, help="Number of layers N to run; repeat it to compare several."),
]
AttachedAdapter = Annotated[
    str | None, Option(help="Adapter to attach: models:/<name>/<version> or a folder.")
]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace the output if it exists.")]
TrackingUri = Annotated[
    str | None, Option(help="MLflow tracking URI. Default: MLFLOW_TRACKING_URI, else runs/mlflow.db.")
]
PoolAddress = Annotated[
    str | None,
    Option(
        envvar="RAY_ADDRESS",
        help="Ray cluster: host:6379 from inside, ray://host:10001 from outside; this machine's by default.",
    ),
]
Follow = Annotated[bool, Option("--follow", "-f", help="Keep printing until the job ends.")]
Watch = Annotated[bool, Option("--watch", help="Refresh every second until Ctrl-C.")]


def parse_depths(text: str) -> tuple[int, ...]:
    """The depths of an option such as ``--depths 4,8``; none for an empty text.

    Raises:
        ValueError: For anything but whole numbers from 1 on.
    """
    try:
        depths = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        depths = (0,)
    if any(depth < 1 for depth in depths):
        raise ValueError(f"--depths {text}: whole numbers from 1 on are expected, such as 4,8")
    return depths
