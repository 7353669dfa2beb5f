"""The commands ``odeformer pool keys``: who may use the pool's HTTP API."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from launcher.cli.options import AsJson, PoolAddress
from launcher.cli.output import say, show

keys_app = typer.Typer(help="Manage the keys of the pool's HTTP API.", no_args_is_help=True)


@keys_app.command("add")
def keys_add(
    team: Annotated[str, Argument(help="Team that the key acts for.")],
    role: Annotated[
        Literal["member", "admin"], Option(help="An admin also sees and cancels other teams' jobs.")
    ] = "member",
    expires: Annotated[
        datetime | None, Option(formats=["%Y-%m-%d"], help="Last day of the key, in UTC. Default: no end.")
    ] = None,
    as_json: AsJson = False,
    address: PoolAddress = None,
) -> None:
    """Create a key and print it; it is not shown again.

    Example: odeformer pool keys add docs --expires 2027-06-30
    """
    from cluster.names import check_team

    check_team(team)
    end = expires.replace(tzinfo=UTC) + timedelta(days=1) if expires else None
    if end is not None and end <= datetime.now(UTC):
        raise ValueError(f"--expires {end:%Y-%m-%d} has passed")
    from cluster.pool import Pool

    with Pool.connect(address) as pool:
        key, text = pool.add_key(team, role, None if end is None else end.timestamp())
    if as_json:
        show("", {"team": key.team, "id": key.id, "key": text}, as_json)
    else:
        say(f"{key.id} of team {key.team}, shown once:", text)


@keys_app.command("list")
def keys_list(as_json: AsJson = False, address: PoolAddress = None) -> None:
    """List all keys, without the keys themselves.

    Example: odeformer pool keys list
    """
    from cluster.pool import Pool

    with Pool.connect(address) as pool:
        keys = pool.keys()
    from launcher.tables.access import keys_table

    show(keys_table(keys), [asdict(key) for key in keys], as_json)


@keys_app.command("revoke")
def keys_revoke(
    key: Annotated[str, Argument(help="Id of the key, as list shows it.")], address: PoolAddress = None
) -> None:
    """Make a key invalid at once and for good.

    Example: odeformer pool keys revoke key-0123456789ab
    """
    from cluster.pool import Pool

    with Pool.connect(address) as pool:
        say(f"{pool.revoke_key(key).who} is revoked")
