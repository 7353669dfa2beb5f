"""``odeformer eval``."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from launcher import preflight
from launcher.cli.options import AsJson, AttachedAdapter, Model, TrackingUri


def evaluate(
    model: Model,
    text: Annotated[Path | None, typer.Option(help="A file of text.")] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="Tasks of the LM Evaluation Harness, by commas; python_stdlib is here."),
    ] = None,
    task_folder: Annotated[
        Path | None, typer.Option(help="Your own tasks: YAML files of the harness and their data.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask the first so many of each task.")] = None,
    depth: Annotated[
        list[int] | None, typer.Option(help="N, may be repeated; the model depth when not given.")
    ] = None,
    adapter: AttachedAdapter = None,
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Score a text or tasks. Example: odeformer eval --model models:/tiny@champion --tasks python_stdlib"""
    names = [name.strip() for given in tasks or [] for name in given.split(",") if name.strip()]
    if text is None and not names:
        raise ValueError("give --text, --tasks or both")
    if not names and (task_folder is not None or limit is not None):
        raise ValueError("--task-folder and --limit are for --tasks: name the tasks")
    preflight.at_model(model, tracking_uri, adapter)
    from launcher.evaluation.evaluate import evaluate as score
    from launcher.evaluation.lm_eval import Tasks
    from launcher.tables.results import task_scores_table, text_scores_table
    from launcher.terminal.console import make_console
    from launcher.terminal.progress import Progress

    progress = Progress(make_console(as_json))
    with ExitStack() as asking:
        if names:
            asking.enter_context(progress.stage(", ".join(names)))
        found = score(
            model,
            adapter,
            depth or [],
            tracking_uri,
            text=text,
            tasks=Tasks(names, task_folder) if names else None,
            limit=limit,
            progress=progress.update,
        )
    if as_json:
        print(json.dumps(found.content(), indent=2))
        return
    if found.text:
        progress.console.print(text_scores_table(found.text))
    if found.tasks:
        progress.console.print(task_scores_table(found.tasks))
    for remark in found.remarks:
        progress.console.print(remark, highlight=False, soft_wrap=True)
