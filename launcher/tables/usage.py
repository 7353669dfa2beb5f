"""Usage of the pool by team and by base, as tables and as JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from cluster.pool.usage import Cost, TeamUsage
from launcher.terminal.console import make_table


def teams_content(teams: Sequence[TeamUsage]) -> list[dict[str, object]]:
    """The usage of each team; costs are in hours."""
    return [
        {
            "team": team.team,
            "jobs": team.jobs,
            "bases": list(team.bases),
            **{part: getattr(team, part)._asdict() for part in ("own", "share", "total", "alone")},
        }
        for team in teams
    ]


def teams_table(teams: Sequence[TeamUsage]) -> Table:
    """A row for each team."""
    titles = ("jobs", "own jobs", "share of bases", "together", "without sharing")
    table = make_table("team", numbers=titles, wrapped=("bases",))
    for team in teams:
        hours = (_hours(cost) for cost in (team.own, team.share, team.total, team.alone))
        table.add_row(team.team, str(team.jobs), *hours, ", ".join(team.bases))
    return table


def bases_content(teams: Sequence[TeamUsage], costs: Mapping[str, Cost]) -> list[dict[str, object]]:
    """The cost and the teams of each base; costs are in hours."""
    return [
        {"base": base, "cost": costs[base]._asdict(), "teams": _users(teams, base)} for base in sorted(costs)
    ]


def bases_table(teams: Sequence[TeamUsage], costs: Mapping[str, Cost]) -> Table:
    """A row for each base."""
    table = make_table("base", numbers=("cost", "for each team"), wrapped=("teams",))
    for base in sorted(costs):
        users = _users(teams, base)
        share = Cost().plus(costs[base], 1 / max(1, len(users)))
        table.add_row(base, _hours(costs[base]), _hours(share), ", ".join(users))
    return table


def _users(teams: Sequence[TeamUsage], base: str) -> list[str]:
    return [team.team for team in teams if base in team.bases]


def _hours(cost: Cost) -> str:
    parts = [f"{cost.gpu_hours:.3g} GPU h"] if cost.gpu_hours else []
    return " + ".join([*parts, f"{cost.cpu_hours:.3g} CPU h"])
