"""The commands ``odeformer runs``: runs and jobs from the logs in their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from launcher.cli.options import AsJson, Overwrite
from launcher.cli.output import check_installed, show

runs_app = typer.Typer(
    help="List, inspect and compare runs and jobs from the logs in their folders.", no_args_is_help=True
)

Run = Annotated[Path, Argument(metavar="RUN", help="Folder of a run or a job.")]


@runs_app.command("list")
def runs_list(
    folder: Annotated[Path, Argument(help="Folder to look for runs and jobs in.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List runs and jobs, with their state and goodput.

    Example: odeformer runs list
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give the one that holds the runs")
    from launcher.runs import read_runs
    from launcher.tables.runs import content, runs_table

    runs = read_runs(folder)
    show(runs_table(runs), [content(run) for run in runs], as_json)


@runs_app.command("show")
def runs_show(run: Run, as_json: AsJson = False) -> None:
    """Show a run: its state, how long it still takes, and where its time went.

    Example: odeformer runs show runs/first
    """
    from launcher.runs import read_run
    from launcher.tables.runs import content, run_report

    read = read_run(run)
    show(run_report(read), content(read), as_json)


@runs_app.command("compare")
def runs_compare(
    first: Annotated[Path, Argument(metavar="A", help="Folder of a run or a job.")],
    second: Annotated[Path, Argument(metavar="B", help="Folder of another one.")],
    out: Annotated[Path | None, Option(help="HTML page to write, too.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Compare two runs: the settings that differ, their numbers and their curves.

    Example: odeformer runs compare runs/first runs/second --out comparison.html
    """
    if out is not None:
        check_installed("analyze", "plotly", "jinja2")
        if out.exists() and not overwrite:
            raise ValueError(f"{out} exists already: choose another --out, or --overwrite")
    from launcher.runs import differing_settings, read_run
    from launcher.tables.runs import comparison_report, content

    runs = (read_run(first), read_run(second))
    differing = differing_settings(*runs)
    report = comparison_report(*runs, differing)
    if out is not None:
        from launcher.analysis.pages.run_comparison import page
        from odeformer.files.atomic import new_file

        with new_file(out) as file:
            file.write_text(page(*runs, differing), encoding="utf-8")
        report.append(f"open {out} in a browser")
    settings = {name: list(values) for name, values in differing.items()}
    show(report, {"runs": [content(run) for run in runs], "settings": settings}, as_json)


@runs_app.command("why")
def runs_why(run: Run, as_json: AsJson = False) -> None:
    """Explain what slowed or stopped a run, and what to do.

    Example: odeformer runs why runs/first
    """
    from dataclasses import asdict

    from cluster.runs.findings import findings
    from launcher.runs import read_run
    from launcher.tables.runs import why_report

    read = read_run(run)
    found = findings(read.record)
    show(why_report(read, found), [asdict(finding) for finding in found], as_json)
