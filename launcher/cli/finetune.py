"""The commands ``odeformer finetune``: fine-tuning jobs of teams."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from cluster.runs.failures import RunFailedError
from cluster.runs.preemption import resumable
from launcher.cli.options import AsJson, Follow, Overrides, PoolAddress, TrackingUri, Watch
from launcher.cli.output import make_progress, say, show, show_live
from odeformer.files.shown import visible

if TYPE_CHECKING:
    from cluster.door.client import RemotePool
    from cluster.pool import Job, Pool

finetune_app = typer.Typer(
    help="Fine-tune a model for a team's task, on this machine or in a shared pool.", no_args_is_help=True
)

TaskFile = Annotated[Path, Argument(metavar="TASK.yaml", help="YAML file of the task.")]
JobName = Annotated[
    str, Argument(metavar="JOB", help="TEAM/NAME/NUMBER; TEAM/NAME or NAME means its latest job.")
]


@finetune_app.command("run")
@resumable()
def finetune_run(
    task_file: TaskFile,
    overrides: Overrides = None,
    tracking_uri: TrackingUri = None,
    directory: Annotated[Path, Option("--dir", help="Folder for the job's state and results.")] = Path(
        "runs/finetune"
    ),
    as_json: AsJson = False,
) -> None:
    """Run one task on this machine; needs no running cluster.

    Example: odeformer finetune run task.yaml
    """
    from launcher.configuration.load import load_task

    task = load_task(task_file, overrides or [])
    from cluster.connection.connect import ray_cluster
    from cluster.finetuning.job import check
    from launcher.finetunes import run_tasks
    from launcher.tables.results import finetune_table

    check(task, tracking_uri)
    progress = make_progress(as_json)
    with ExitStack() as cluster:
        with progress.stage("Ray"):
            cluster.enter_context(ray_cluster(None, finetune_slots=1))
        results = run_tasks([task], directory, tracking_uri, progress)
        with progress.stage("stopping Ray"), suppress(SystemExit):  # SIGTERM: there is a result already
            cluster.close()
    show(finetune_table(results), [asdict(result) for result in results], as_json)


@finetune_app.command("advise")
def finetune_advise(
    task_file: TaskFile,
    overrides: Overrides = None,
    steps: Annotated[int, Option(min=2, max=1000, help="Steps of each trial run.")] = 30,
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Try fine-tuning methods briefly and recommend one.

    Example: odeformer finetune advise task.yaml
    """
    from launcher.configuration.load import load_task

    task = load_task(task_file, overrides or [])
    progress = make_progress(as_json)
    with progress.stage(f"{task.team}/{task.name}: {steps} steps with each method"):
        # Takes seconds, in which the stage shows signs of life.
        from cluster.finetuning.advise import Probe, advise

        def on_probe(probe: Probe, part: float) -> None:
            gained = f"{probe.before:.3f} → {probe.after:.3f}"
            progress.update(part, f"{probe.words}, N = {probe.depth}: {gained}")

        advice = advise(task, tracking_uri, steps, on_probe)
    from launcher.tables.advice import content, report

    show(report(advice), content(advice), as_json)


@finetune_app.command("submit")
def finetune_submit(
    task_file: TaskFile,
    overrides: Overrides = None,
    wait: Annotated[
        bool, Option("--wait", help="Wait until the job ends; exit code 1 if it failed.")
    ] = False,
    address: PoolAddress = None,
) -> None:
    """Submit a task to the cluster's pool.

    Example: odeformer finetune submit task.yaml --wait
    """
    from launcher.configuration.load import load_task

    task = load_task(task_file, overrides or [])
    with _pool(address) as pool:
        job_id = pool.submit(task)
        say(f"submitted: {job_id}")
        if wait:
            from launcher.finetunes import watch

            watch(pool, [job_id], make_progress())
            _end_as(pool.job(job_id))


@finetune_app.command("search")
def finetune_search(
    task_file: TaskFile, overrides: Overrides = None, as_json: AsJson = False, address: PoolAddress = None
) -> None:
    """Search hyperparameters, then train with the best.

    Example: odeformer finetune search task.yaml
    """
    from cluster.door.client import URL, remote_pool

    if remote_pool():
        raise ValueError(
            f"a search does not work through the pool's door: unset {URL}, and run it on the cluster"
        )
    from launcher.configuration.load import load_searched_task

    task = load_searched_task(task_file, overrides or [])
    from cluster.pool import Pool
    from launcher.finetunes import run_search
    from launcher.tables.search import content, trials_table

    with Pool.connect(address) as pool:
        search, job = run_search(pool, task, make_progress(as_json))
    show(trials_table(search), content(search, job), as_json)
    _end_as(job, quiet=as_json)


@finetune_app.command("list")
def finetune_list(as_json: AsJson = False, watch: Watch = False, address: PoolAddress = None) -> None:
    """List the pool's jobs, newest last.

    Example: odeformer finetune list --watch
    """
    with _pool(address) as pool:
        from launcher.tables.pool import jobs_table

        if watch and not as_json:
            show_live(lambda: jobs_table(pool.jobs()))
        else:
            jobs = pool.jobs()
            show(jobs_table(jobs), [asdict(job) for job in jobs], as_json)


@finetune_app.command("show")
def finetune_show(job: JobName, as_json: AsJson = False, address: PoolAddress = None) -> None:
    """Show a job, its history and its error.

    Example: odeformer finetune show docs/docstring
    """
    with _pool(address) as pool:
        record = pool.job(pool.find(job))
    from launcher.tables.pool import history_table, jobs_table
    from launcher.terminal.durations import in_words

    facts = f"\nfolder: {record.folder}\nbase: {record.base}\n"
    if record.time_left is not None:
        facts = f"\n{in_words(record.time_left)}{facts}"
    log = ["", *record.last_lines] if record.state == "failed" and record.last_lines else []
    show([jobs_table([record]), facts, history_table(record), *log], asdict(record), as_json)


@finetune_app.command("logs")
def finetune_logs(job: JobName, follow: Follow = False, address: PoolAddress = None) -> None:
    """Print a job's events; -f exits with 1 if it failed.

    Example: odeformer finetune logs docstring -f
    """
    from launcher.finetunes import lines

    with _pool(address) as pool:
        job_id = pool.find(job)
        for line in lines(pool, job_id, follow):
            print(visible(line), flush=True)
        if follow:
            _end_as(pool.job(job_id))


@finetune_app.command("cancel")
def finetune_cancel(job: JobName, address: PoolAddress = None) -> None:
    """Cancel a queued or running job.

    Example: odeformer finetune cancel docs/docstring
    """
    with _pool(address) as pool:
        job_id = pool.find(job)
        state = pool.cancel(job_id)
    if state == "running":
        say(f"{job_id} is being cancelled; retry resumes it from its last checkpoint")
    else:
        say(f"{job_id} is {state}")


@finetune_app.command("retry")
def finetune_retry(job: JobName, address: PoolAddress = None) -> None:
    """Resume a failed or cancelled job.

    Example: odeformer finetune retry docs/docstring
    """
    with _pool(address) as pool:
        job_id = pool.find(job)
        say(f"{job_id} is {pool.retry(job_id)}")


def _pool(address: str | None) -> Pool | RemotePool:
    """The pool behind the door that the environment names, or else that of a cluster."""
    from cluster.door.client import remote_pool

    if remote := remote_pool():
        return remote
    from cluster.pool import Pool

    return Pool.connect(address)


def _end_as(job: Job, quiet: bool = False) -> None:
    """Print how a job ended, unless ``quiet``; exit with code 1 unless it succeeded."""
    from launcher.tables.pool import summary

    if job.state != "succeeded":
        raise RunFailedError(f"job {job.id} is {job.state}: {summary(job) or 'no reason was given'}")
    if not quiet:
        say(f"{job.id} succeeded: {summary(job)}")
