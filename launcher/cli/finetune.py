"""``odeformer finetune``: teams' jobs."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.runs.failures import RunFailedError
from launcher.cli.options import AsJson, Overrides, PoolAddress, TrackingUri

if TYPE_CHECKING:
    from cluster.pool import Job, Pool

finetune_app = typer.Typer(help="Fine-tuning jobs of teams.", no_args_is_help=True)

TaskFile = Annotated[Path, typer.Argument(metavar="TASK.yaml")]
JobName = Annotated[
    str, typer.Argument(metavar="JOB", help="NAME, TEAM/NAME or TEAM/NAME/NUMBER; else the latest of them.")
]


@finetune_app.command("run")
def finetune_run(
    task_file: TaskFile,
    overrides: Overrides = None,
    tracking_uri: TrackingUri = None,
    directory: Annotated[Path, typer.Option("--dir", help="Where the pool is and its jobs write.")] = Path(
        "runs/finetune"
    ),
    as_json: AsJson = False,
) -> None:
    """Run one task on a pool of its own, here and now. Example: odeformer finetune run task.yaml"""
    from launcher.configuration.load import load_task
    from launcher.terminal.console import make_console

    task = load_task(task_file, overrides or [])
    from cluster.connection.connect import ray_cluster
    from cluster.finetuning.job import check
    from launcher.finetunes import run_tasks
    from launcher.tables.results import finetune_table
    from launcher.terminal.progress import Progress

    check(task, tracking_uri)
    progress = Progress(make_console(as_json))
    with ExitStack() as cluster:
        with progress.stage("Ray"):
            cluster.enter_context(ray_cluster(None, finetune_slots=1))
        results = run_tasks([task], directory, tracking_uri, progress)
        with progress.stage("stopping Ray"):
            cluster.close()
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        progress.console.print(finetune_table(results))


@finetune_app.command("advise")
def finetune_advise(
    task_file: TaskFile,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=2, max=1000, help="Of each probe.")] = 30,
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Try every method for a few steps, and compare. Example: odeformer finetune advise task.yaml"""
    from launcher.configuration.load import load_task
    from launcher.terminal.console import make_console

    task = load_task(task_file, overrides or [])
    from launcher.advice import advice
    from launcher.tables.advice import content, show
    from launcher.terminal.progress import Progress

    progress = Progress(make_console(as_json))
    with progress.stage(f"{task.team}/{task.name}: {steps} steps by every method"):
        found = advice(task, tracking_uri, steps, progress)
    if as_json:
        print(json.dumps(content(found), indent=2))
    else:
        show(found, progress.console)


@finetune_app.command("submit")
def finetune_submit(
    task_file: TaskFile,
    overrides: Overrides = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it has ended; exit code 1 if it failed.")
    ] = False,
    address: PoolAddress = None,
) -> None:
    """Queue a task on the cluster's pool. Example: odeformer finetune submit task.yaml --wait"""
    from launcher.configuration.load import load_task

    task = load_task(task_file, overrides or [])
    with _pool(address) as pool:
        job_id = pool.submit(task)
        _say(f"submitted: {job_id}")
        if wait:
            from launcher.finetunes import watch

            watch(pool, [job_id], _progress())
            _end_as(pool.job(job_id))


@finetune_app.command("search")
def finetune_search(
    task_file: TaskFile, overrides: Overrides = None, as_json: AsJson = False, address: PoolAddress = None
) -> None:
    """Try settings as jobs, run the task with the best. Example: odeformer finetune search task.yaml"""
    from launcher.configuration.load import load_searched_task
    from launcher.terminal.console import make_console

    task = load_searched_task(task_file, overrides or [])
    from launcher.finetunes import run_search
    from launcher.tables.search import content, trials_table
    from launcher.terminal.progress import Progress

    progress = Progress(make_console(as_json))
    with _pool(address) as pool:
        search, job = run_search(pool, task, progress)
    if as_json:
        print(json.dumps(content(search, job), indent=2))
        _check_succeeded(job)
    else:
        progress.console.print(trials_table(search))
        _end_as(job)


@finetune_app.command("list")
def finetune_list(
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing them, until Ctrl-C.")] = False,
    address: PoolAddress = None,
) -> None:
    """All jobs of the pool, the latest last. Example: odeformer finetune list --watch"""
    with _pool(address) as pool:
        if as_json:
            print(json.dumps([asdict(job) for job in pool.jobs()], indent=2))
            return
        from launcher.tables.pool import jobs_table

        _show(lambda: jobs_table(pool.jobs()), watch)


@finetune_app.command("show")
def finetune_show(job: JobName, as_json: AsJson = False, address: PoolAddress = None) -> None:
    """A job: its history, and what it died of. Example: odeformer finetune show docs/docstring"""
    with _pool(address) as pool:
        shown = pool.job(pool.find(job))
    if as_json:
        print(json.dumps(asdict(shown), indent=2))
        return
    from launcher.tables.pool import history_table, jobs_table
    from launcher.terminal.console import make_console

    console = make_console()
    console.print(jobs_table([shown]))
    _say(f"\nfolder: {shown.folder}\nbase: {shown.base}\n")
    console.print(history_table(shown))
    if shown.state == "failed" and shown.last_lines:
        _say("\n".join(["", *shown.last_lines]))


@finetune_app.command("logs")
def finetune_logs(
    job: JobName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job has ended.")] = False,
    address: PoolAddress = None,
) -> None:
    """What happened in a job; -f ends as it does, 1 if it failed. Example: odeformer finetune logs docs -f"""
    from launcher.finetunes import lines

    with _pool(address) as pool:
        job_id = pool.find(job)
        for line in lines(pool, job_id, follow):
            print(line, flush=True)
        if follow:
            _end_as(pool.job(job_id))


@finetune_app.command("cancel")
def finetune_cancel(job: JobName, address: PoolAddress = None) -> None:
    """Cancel a job that waits or runs. Example: odeformer finetune cancel docs/docstring"""
    with _pool(address) as pool:
        job_id = pool.find(job)
        state = pool.cancel(job_id)
    if state == "running":
        _say(f"{job_id} is asked to end; retry lets it go on from where it was")
    else:
        _say(f"{job_id} is {state}")


@finetune_app.command("retry")
def finetune_retry(job: JobName, address: PoolAddress = None) -> None:
    """Queue a job again that failed or was cancelled. Example: odeformer finetune retry docs/docstring"""
    with _pool(address) as pool:
        job_id = pool.find(job)
        _say(f"{job_id} is {pool.retry(job_id)}")


def _pool(address: str | None) -> Pool:
    from cluster.pool import Pool

    return Pool.connect(address)


def _end_as(job: Job) -> None:
    """Say how a job ended; exit code 1 unless it succeeded."""
    from launcher.tables.pool import summary

    _check_succeeded(job)
    _say(f"{job.id} succeeded: {summary(job)}")


def _check_succeeded(job: Job) -> None:
    from launcher.tables.pool import summary

    if job.state != "succeeded":
        raise RunFailedError(f"job {job.id} is {job.state}: {summary(job) or 'no reason was given'}")


def _show(table: Any, watch: bool) -> None:
    from launcher.terminal.console import make_console
    from launcher.terminal.live import show_until_interrupted

    console = make_console()
    if watch:
        show_until_interrupted(table, console)
    else:
        console.print(table())


def _progress() -> Any:
    from launcher.terminal.console import make_console
    from launcher.terminal.progress import Progress

    return Progress(make_console())


def _say(text: str) -> None:
    from launcher.terminal.console import make_console

    make_console().print(text, highlight=False, markup=False, soft_wrap=True)
