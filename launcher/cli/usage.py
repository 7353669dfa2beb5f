"""``odeformer usage``: who has used how much of what was paid for once."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from launcher.cli.options import AsJson, PoolAddress


def usage(
    by: Annotated[Literal["team", "base"], typer.Option(help="A line for each of these.")] = "team",
    as_json: AsJson = False,
    address: PoolAddress = None,
) -> None:
    """What teams have used, and saved by sharing a base. Example: odeformer usage --by team"""
    from cluster.pool import Pool
    from cluster.pool import usage as using
    from cluster.runs.cost import Cost

    with Pool.connect(address) as pool:
        jobs, status = pool.jobs(), pool.status()
        seconds = using.running_seconds(pool.transitions())
    each = Cost(status["cpus_per_job"], status["gpus_per_job"])
    costs = using.base_costs((job.base for job in jobs), status["tracking_uri"])
    teams = using.by_team(jobs, seconds, each, costs)
    from launcher.tables.usage import bases_content, bases_table, teams_content, teams_table
    from launcher.terminal.console import make_console

    if as_json:
        print(json.dumps(teams_content(teams) if by == "team" else bases_content(teams, costs), indent=2))
    else:
        make_console().print(teams_table(teams) if by == "team" else bases_table(teams, costs))
