"""``odeformer submit`` and ``odeformer jobs``: pretraining on a cluster that runs already."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.runs.failures import RunFailedError
from launcher.cli.options import AsJson, Overrides

if TYPE_CHECKING:
    from cluster.connection.job import Job
    from cluster.connection.jobs import JobServer

submit_app = typer.Typer(help="Work for a cluster that runs already.", no_args_is_help=True)
jobs_app = typer.Typer(help="The pretraining jobs of a cluster.", no_args_is_help=True)

Address = Annotated[
    str | None,
    typer.Option(
        envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
        help="Of the cluster's dashboard, http://host:8265.",
    ),
]
JobName = Annotated[str, typer.Argument(metavar="NAME", help="The job's name.")]


@submit_app.command("pretrain")
def submit_pretrain(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")],
    address: Address = None,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="The job's name; that of run.dir when not given.")] = None,
) -> None:
    """Queue a run. Example: odeformer submit pretrain run.yaml --address http://head:8265 --name first"""
    from launcher.configuration.load import load_pretrain

    settings = load_pretrain(config, overrides or [])
    server = _server(address)
    job = server.submit(settings, name)
    _say(f"submitted: {job}; odeformer jobs logs {job} -f --address {server.address}")


@jobs_app.command("list")
def jobs_list(address: Address = None, as_json: AsJson = False) -> None:
    """All jobs, the latest first. Example: odeformer jobs list --address http://head:8265"""
    jobs = _server(address).jobs()
    if as_json:
        print(json.dumps([_content(job) for job in jobs], indent=2))
        return
    from launcher.tables.results import jobs_table
    from launcher.terminal.console import make_console

    make_console().print(jobs_table(jobs))


@jobs_app.command("show")
def jobs_show(name: JobName, address: Address = None, as_json: AsJson = False) -> None:
    """A job: what it waits for, or what it died of. Example: odeformer jobs show first"""
    job = _server(address).job(name)
    if as_json:
        print(json.dumps(_content(job), indent=2))
        return
    from launcher.tables.results import jobs_table
    from launcher.terminal.console import make_console

    make_console().print(jobs_table([job]))
    if job.last_lines:
        _say("\n".join(["", *job.last_lines]))


@jobs_app.command("logs")
def jobs_logs(
    name: JobName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job has ended.")] = False,
    address: Address = None,
) -> None:
    """What a job printed; -f ends as it does, 1 if it failed. Example: odeformer jobs logs first -f"""
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
    """End a job, as Ctrl-C would end the run. Example: odeformer jobs stop first"""
    server = _server(address)
    if server.stop(name):
        _say(f"stopped: {name}; submitted again under another name it goes on from its last checkpoint")
    else:
        _say(f"{name} has ended already ({server.job(name).state})")


def _server(address: str | None) -> JobServer:
    if address is None:
        raise ValueError("which cluster? give --address http://host:8265, or set RAY_API_SERVER_ADDRESS")
    from cluster.connection.jobs import JobServer

    return JobServer(address)


def _content(job: Job) -> dict[str, Any]:
    return asdict(job) | {"seconds": round(job.seconds, 1)}


async def _write(pieces: AsyncIterator[str]) -> None:
    async for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()


def _say(text: str) -> None:
    from launcher.terminal.console import make_console

    make_console().print(text, highlight=False, markup=False, soft_wrap=True)
