"""The command ``odeformer eval``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from typer import Option

from launcher import preflight
from launcher.cli.options import AsJson, AttachedAdapter, Depths, Model, TrackingUri
from launcher.cli.output import check_installed, make_progress, show


def evaluate(
    model: Model,
    text: Annotated[Path | None, Option(help="Text file to measure the loss on.")] = None,
    tasks: Annotated[
        list[str] | None,
        Option(help="LM Evaluation Harness tasks, comma-separated; python_stdlib needs no network."),
    ] = None,
    task_folder: Annotated[
        Path | None, Option(help="Folder of your own LM Evaluation Harness tasks.")
    ] = None,
    limit: Annotated[
        int | None, Option(min=1, help="Maximum number of examples per task; all by default.")
    ] = None,
    depth: Depths = None,
    adapter: AttachedAdapter = None,
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Measure loss on a text, or task scores, of a model or of a checkpoint in a run's folder.

    Example: odeformer eval --model models:/m/1 --text a.txt
    """
    names = [name.strip() for name in ",".join(tasks or []).split(",") if name.strip()]
    if text is None and not names:
        raise ValueError("give --text, --tasks or both")
    if not names and (task_folder is not None or limit is not None):
        raise ValueError("--task-folder and --limit are for --tasks: name the tasks")
    from cluster.checkpoints.folder import MANIFEST

    if not (Path(model) / MANIFEST).is_file():
        preflight.at_model(model, tracking_uri, adapter)
    if names:
        check_installed("eval", "lm_eval")
    progress = make_progress(as_json)
    with ExitStack() as stage:
        if names:
            stage.enter_context(progress.stage(", ".join(names)))
        # These imports take seconds, in which the stage shows that the command is alive.
        from cluster.evaluation.commit import loadable
        from cluster.evaluation.evaluate import evaluate as score
        from cluster.evaluation.lm_eval import Tasks

        evaluation = score(
            stage.enter_context(loadable(model)),
            adapter,
            depth or [],
            tracking_uri,
            text=text,
            tasks=Tasks(names, task_folder) if names else None,
            limit=limit,
            progress=progress.update,
        )
    from launcher.tables.results import task_scores_table, text_scores_table

    tables = [text_scores_table(evaluation.text)] if evaluation.text else []
    tables += [task_scores_table(evaluation.tasks)] if evaluation.tasks else []
    show([*tables, *evaluation.remarks], evaluation.content(), as_json)
