"""The command ``odeformer usage``."""

from __future__ import annotations

from typing import Annotated, Literal

from typer import Option

from launcher.cli.options import AsJson, PoolAddress
from launcher.cli.output import show


def usage(
    by: Annotated[Literal["team", "base"], Option(help="Group by team or by base model.")] = "team",
    as_json: AsJson = False,
    address: PoolAddress = None,
) -> None:
    """Show compute per team, and what sharing base models saved.

    Example: odeformer usage --by team
    """
    from cluster.pool import Pool
    from cluster.pool import usage as using
    from cluster.runs.cost import Cost

    with Pool.connect(address) as pool:
        jobs, status, uri = pool.jobs(), pool.status(), pool.uri()
        seconds = using.running_seconds(pool.transitions())
    per_job = Cost(status["cpus_per_job"], status["gpus_per_job"])
    costs = using.base_costs((job.base for job in jobs), uri)
    teams = using.by_team(jobs, seconds, per_job, costs)
    from launcher.tables.usage import bases_content, bases_table, teams_content, teams_table

    if by == "team":
        show(teams_table(teams), teams_content(teams), as_json)
    else:
        show(bases_table(teams, costs), bases_content(teams, costs), as_json)
