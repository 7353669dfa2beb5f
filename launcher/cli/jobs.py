"""The commands ``odeformer submit`` and ``odeformer jobs``: pretraining jobs on a running cluster."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from cluster.runs.failures import RunFailedError
from launcher.cli.options import AsJson, Config, Follow, Overrides
from launcher.cli.output import say, show

if TYPE_CHECKING:
    from cluster.connection.job import Job
    from cluster.connection.jobs import JobServer

submit_app = typer.Typer(help="Submit a pretraining run to a running Ray cluster.", no_args_is_help=True)
jobs_app = typer.Typer(help="Manage submitted pretraining runs on a Ray cluster.", no_args_is_help=True)

Address = Annotated[
    str | None,
    Option(
        envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
        help="Ray dashboard of the cluster, http://host:8265.",
    ),
]
JobName = Annotated[str, Argument(metavar="NAME", help="The job's name.")]


@submit_app.command("pretrain")
def submit_pretrain(
    config: Config,
    address: Address = None,
    overrides: Overrides = None,
    name: Annotated[str | None, Option(help="The job's name; the last part of run.dir by default.")] = None,
) -> None:
    """Submit a run.

    Example: odeformer submit pretrain run.yaml --address http://head:8265 --name first
    """
    from launcher.configuration.load import load_pretrain

    settings = load_pretrain(config, overrides or [])
    server = _server(address)
    job = server.submit(settings, name)
    say(f"submitted: {job}; odeformer jobs logs {job} -f --address {server.address}")


@jobs_app.command("list")
def jobs_list(address: Address = None, as_json: AsJson = False) -> None:
    """List jobs, newest first.

    Example: odeformer jobs list --address http://head:8265
    """
    jobs = _server(address).jobs()
    from launcher.tables.results import jobs_table

    show(jobs_table(jobs), [_content(job) for job in jobs], as_json)


@jobs_app.command("show")
def jobs_show(name: JobName, address: Address = None, as_json: AsJson = False) -> None:
    """Show a job, how long it still takes, and why it is pending or failed.

    Example: odeformer jobs show first
    """
    server = _server(address)
    job = server.job(name)
    from launcher.tables.results import jobs_table
    from launcher.terminal.progress import last_line

    progress = last_line(server.log(name)) if job.state == "running" else None
    log = ["", *job.last_lines] if job.last_lines else ["", progress] if progress else []
    show([jobs_table([job]), *log], _content(job) | {"progress": progress}, as_json)


@jobs_app.command("logs")
def jobs_logs(name: JobName, follow: Follow = False, address: Address = None) -> None:
    """Print a job's output; -f exits with 1 if it failed.

    Example: odeformer jobs logs first -f
    """
    server = _server(address)
    if not follow:
        sys.stdout.write(server.log(name))
        return
    import asyncio

    asyncio.run(_write(server.follow(name)))
    job = server.job(name)
    if job.state == "failed":
        raise RunFailedError(f"job {name} failed: {job.cause}")
    if job.state != "succeeded":
        raise RunFailedError(f"job {name} is {job.state}; its log has ended")


@jobs_app.command("stop")
def jobs_stop(name: JobName, address: Address = None) -> None:
    """Stop a job cleanly, like Ctrl-C in a terminal.

    Example: odeformer jobs stop first
    """
    server = _server(address)
    if server.stop(name):
        say(f"stopped: {name}; submit it under another name to resume from its last checkpoint")
    else:
        say(f"{name} has ended already ({server.job(name).state})")


def _server(address: str | None) -> JobServer:
    if address is None:
        raise ValueError("which cluster? give --address http://host:8265, or set RAY_API_SERVER_ADDRESS")
    from cluster.connection.jobs import JobServer

    return JobServer(address)


def _content(job: Job) -> dict[str, object]:
    return asdict(job) | {"seconds": round(job.seconds, 1)}


async def _write(pieces: AsyncIterator[str]) -> None:
    async for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
