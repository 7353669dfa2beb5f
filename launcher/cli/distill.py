"""The command ``odeformer distill``."""

from __future__ import annotations

import json
from typing import Annotated

from typer import Argument, Option

from cluster.runs.preemption import resumable
from launcher.cli.options import Config, DryRun, DryRunAsJson, Overrides
from launcher.cli.pretrain import run_pretraining


@resumable()
def distill(
    teacher: Annotated[
        str, Argument(help="Teacher as models:/<name>@<alias>, models:/<name>/<version>, or a folder.")
    ],
    config: Config,
    overrides: Overrides = None,
    depth: Annotated[
        int | None, Option(min=1, help="Number of layers N of the teacher; its own depth D by default.")
    ] = None,
    dry_run: DryRun = False,
    as_json: DryRunAsJson = False,
) -> None:
    """Pretrain a student on the text and on a teacher's predictions.

    Example: odeformer distill models:/book@champion tiny --set model.width=64 --set run.dir=runs/student
    """
    chosen = [f"teacher.model={json.dumps(teacher)}"]
    if depth is not None:
        chosen.append(f"teacher.depth={depth}")
    run_pretraining(config, [*(overrides or []), *chosen], dry_run, as_json)
