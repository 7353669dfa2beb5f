"""``odeformer pool``: the fine-tune pool of a cluster that runs already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from launcher.cli.options import AsJson, Overrides, PoolAddress

pool_app = typer.Typer(help="The fine-tune pool of a cluster that runs already.", no_args_is_help=True)


@pool_app.command("start")
def pool_start(
    settings_file: Annotated[Path | None, typer.Argument(metavar="[POOL.yaml]")] = None,
    overrides: Overrides = None,
    address: PoolAddress = None,
) -> None:
    """Start the pool, or give it other settings. Example: odeformer pool start pool.yaml"""
    from launcher.configuration.load import load_pool

    settings = load_pool(settings_file, overrides or [])
    from cluster.pool import Pool
    from launcher.tables.pool import status_line

    with Pool.start(settings, address) as pool:
        _say(status_line(pool.status()))


@pool_app.command("status")
def pool_status(
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it, until Ctrl-C.")] = False,
    address: PoolAddress = None,
) -> None:
    """Slots, and what each team has, may have and has had. Example: odeformer pool status --watch"""
    from cluster.pool import Pool

    with Pool.connect(address) as pool:
        if as_json:
            print(json.dumps(pool.status(), indent=2))
            return
        from rich.console import Group, RenderableType
        from rich.text import Text

        from launcher.tables.pool import status_line, teams_table
        from launcher.terminal.console import make_console
        from launcher.terminal.live import show_until_interrupted

        def shown() -> list[RenderableType]:
            status = pool.status()
            return [Text(status_line(status)), Text(), teams_table(status)]

        console = make_console()
        if watch:
            show_until_interrupted(lambda: Group(*shown()), console)
        else:
            for part in shown():
                console.print(part)


@pool_app.command("drain")
def pool_drain(address: PoolAddress = None) -> None:
    """Begin no more jobs and take none, until the next start. Example: odeformer pool drain"""
    from cluster.pool import Pool

    with Pool.connect(address) as pool:
        pool.drain()
        running = pool.status()["running"]
    _say(f"draining: {running} jobs still run; odeformer pool start takes and begins jobs again")


@pool_app.command("stop")
def pool_stop(address: PoolAddress = None) -> None:
    """End the pool; running jobs commit and are queued again. Example: odeformer pool stop"""
    from cluster.pool import Pool

    with Pool.connect(address) as pool:
        where = pool.status()["dir"]
        pool.stop()
    _say(f"stopped; odeformer pool start with the same dir goes on with what {where} holds")


def _say(text: str) -> None:
    from launcher.terminal.console import make_console

    make_console().print(text, highlight=False, markup=False, soft_wrap=True)
