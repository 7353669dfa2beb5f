"""The commands ``odeformer pool``: the fine-tune pool of a running cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from launcher.cli.options import AsJson, Overrides, PoolAddress, Watch
from launcher.cli.output import check_installed, make_progress, say, show, show_live
from launcher.cli.pool_keys import keys_app

if TYPE_CHECKING:
    from cluster.pool.status import PoolStatus

pool_app = typer.Typer(help="Manage the pool that runs teams' fine-tuning jobs.", no_args_is_help=True)
pool_app.add_typer(keys_app, name="keys")


@pool_app.command("start")
def pool_start(
    settings_file: Annotated[
        Path | None, Argument(metavar="[POOL.yaml]", help="YAML file of the pool's settings.")
    ] = None,
    overrides: Overrides = None,
    address: PoolAddress = None,
) -> None:
    """Start the pool, or change the settings of a running one.

    Example: odeformer pool start pool.yaml
    """
    from launcher.configuration.load import load_pool

    settings = load_pool(settings_file, overrides or [])
    from cluster.pool import Pool
    from launcher.tables.pool import status_line

    with Pool.start(settings, address) as pool:
        say(status_line(pool.status()))


@pool_app.command("status")
def pool_status(as_json: AsJson = False, watch: Watch = False, address: PoolAddress = None) -> None:
    """Show job slots, and each team's share and usage.

    Example: odeformer pool status --watch
    """
    from cluster.pool import Pool

    with Pool.connect(address) as pool:
        from rich.console import Group

        from launcher.tables.pool import status_line, teams_table

        def page(status: PoolStatus) -> Group:
            return Group(status_line(status), "", teams_table(status))

        if watch and not as_json:
            show_live(lambda: page(pool.status()))
        else:
            status = pool.status()
            show(page(status), status, as_json)


@pool_app.command("door")
def pool_door(
    host: Annotated[str, Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    address: PoolAddress = None,
) -> None:
    """Serve the pool's HTTP API and web page, until Ctrl-C.

    Example: odeformer pool door --host 0.0.0.0
    """
    check_installed("serve", "openai", "fastapi")
    from cluster.pool import Pool
    from launcher.serving import open_door_until_stopped

    with Pool.connect(address):
        open_door_until_stopped(host, port, make_progress())


@pool_app.command("drain")
def pool_drain(address: PoolAddress = None) -> None:
    """Let running jobs finish, but accept and start no others.

    Example: odeformer pool drain
    """
    from cluster.pool import Pool

    with Pool.connect(address) as pool:
        pool.drain()
        running = pool.status()["running"]
    say(f"draining: {running} jobs still run; odeformer pool start accepts and starts jobs again")


@pool_app.command("stop")
def pool_stop(address: PoolAddress = None) -> None:
    """Stop the pool; running jobs are checkpointed and requeued.

    Example: odeformer pool stop
    """
    from cluster.pool import Pool

    with Pool.connect(address) as pool:
        folder = pool.status()["dir"]
        pool.stop()
    say(f"stopped; odeformer pool start with dir {folder} resumes its jobs")


@pool_app.command("audit")
def pool_audit(as_json: AsJson = False, address: PoolAddress = None) -> None:
    """Show the audit log: who changed what, and when.

    Example: odeformer pool audit
    """
    from cluster.pool import Pool
    from launcher.tables.access import audit_table

    with Pool.connect(address) as pool:
        entries = pool.audit()
    show(audit_table(entries), [entry._asdict() for entry in entries], as_json)
