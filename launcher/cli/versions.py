"""The commands ``odeformer models`` that list, compare and promote versions."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from launcher.cli.models import models_app
from launcher.cli.options import AsJson, PoolAddress, TrackingUri
from launcher.cli.output import say, show

if TYPE_CHECKING:
    from rich.console import RenderableType

Model = Annotated[str, Argument(help="Version as models:/<name>@<alias> or models:/<name>/<version>.")]
Why = Annotated[str, Option(help="Reason to record in the model's history.")]


@models_app.command("list")
def models_list(as_json: AsJson = False, tracking_uri: TrackingUri = None) -> None:
    """List all versions of all models.

    Example: odeformer models list
    """
    from cluster import registry
    from launcher.tables import versions as tables

    versions = registry.versions(tracking_uri)
    content = [tables.version_content(version) for version in versions]
    show(tables.versions_table(versions), content, as_json)


@models_app.command("show")
def models_show(
    model: Annotated[str, Argument(help="Version, models:/…, or a model's name for its history.")],
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Show a version, or a model's history.

    Example: odeformer models show models:/tiny@champion
    """
    from cluster import registry
    from cluster.registry.about import LINEAGE_FILE
    from cluster.registry.aliases import read_log
    from cluster.registry.fetching import read_depths, read_json
    from launcher.tables import versions as tables

    if _names_a_version(model):
        version = registry.resolve(model, tracking_uri)
        depths = read_depths(version, tracking_uri)
        lineage = read_json(version, LINEAGE_FILE, tracking_uri) if as_json else None
        content = {**tables.version_content(version), "depths": depths and asdict(depths), "lineage": lineage}
        show(tables.version_page(version, depths), content, as_json)
        return

    name = model.removeprefix("models:/")
    versions, log = registry.versions(tracking_uri, name), read_log(name, tracking_uri)
    content = {
        "name": name,
        "versions": [tables.version_content(version) for version in versions],
        "history": [tables.move_content(move) for move in log.moves],
    }
    history: list[RenderableType] = ["", tables.log_table(log)] if log.moves else []
    show([tables.versions_table(versions), *history], content, as_json)


@models_app.command("promote")
def models_promote(
    model: Model,
    data: Annotated[
        str | None,
        Option(help="Shards or text file to compare on; the champion's validation data by default."),
    ] = None,
    depth: Annotated[
        int | None, Option(help="Number of layers N to compare at; the model's own depth D by default.")
    ] = None,
    threshold: Annotated[
        float,
        Option(help="Largest increase in loss or error (95 % bound) that passes; 0 demands a decrease."),
    ] = 0.0,
    sequences: Annotated[int, Option(help="Maximum number of sequences to compare on.")] = 256,
    seed: Annotated[int, Option(help="Random seed of the bootstrap.")] = 0,
    no_gate: Annotated[bool, Option("--no-gate", help="Promote without comparing to the champion.")] = False,
    why: Why = "",
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Make a version champion if it is better.

    Example: odeformer models promote models:/tiny@candidate
    """
    from pydantic import ValidationError

    from cluster.promotion.promote import GateSettings, promote
    from launcher.tables import versions as tables

    try:
        gate = GateSettings(data=data, depth=depth, threshold=threshold, sequences=sequences, seed=seed)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"--{first['loc'][0]} {first['input']}: {first['msg']}") from None
    promotion = promote(model, tracking_uri, None if no_gate else gate, why)
    content = {
        "version": tables.version_content(promotion.version),
        "promoted": promotion.done,
        "before": None if promotion.before is None else promotion.before.version,
        "gate": None if promotion.verdict is None else vars(promotion.verdict),
    }
    show(tables.promotion_page(promotion), content, as_json)
    if not promotion.done:
        raise typer.Exit(1)


@models_app.command("rollback")
def models_rollback(
    name: Annotated[str, Argument(help="The model's name.")], why: Why = "", tracking_uri: TrackingUri = None
) -> None:
    """Restore the previous champion.

    Example: odeformer models rollback tiny
    """
    from cluster.names import check_model_name
    from cluster.registry import aliases

    name = name.removeprefix("models:/")
    check_model_name(name)
    version = aliases.rollback(name, tracking_uri, why)
    say(f"{version.uri} is the champion again")


@models_app.command("diff")
def models_diff(
    first: Model, second: Model, as_json: AsJson = False, tracking_uri: TrackingUri = None
) -> None:
    """Compare two versions.

    Example: odeformer models diff models:/tiny@candidate models:/tiny@champion
    """
    from cluster.registry import family
    from launcher.tables import versions as tables

    differences = family.diff(first, second, tracking_uri)
    content = [vars(difference) for difference in differences]
    show(tables.diff_table(first, second, differences), content, as_json)


@models_app.command("lineage")
def models_lineage(model: Model, as_json: AsJson = False, tracking_uri: TrackingUri = None) -> None:
    """Show a version's ancestors and descendants.

    Example: odeformer models lineage models:/tiny@champion
    """
    from cluster.registry.family import family
    from launcher.tables import versions as tables

    relatives = family(model, tracking_uri)
    show(tables.family_tree(relatives), tables.family_content(relatives), as_json)


@models_app.command("outdated")
def models_outdated(
    retrain: Annotated[
        bool, Option("--retrain", help="Resubmit their tasks to the pool, on the current champion.")
    ] = False,
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
    address: PoolAddress = None,
) -> None:
    """List adapters whose base is no longer champion.

    Example: odeformer models outdated
    """
    from cluster.registry.family import outdated
    from launcher.tables import versions as tables

    adapters = outdated(tracking_uri)
    content: list[dict[str, object]] = [
        {"adapter": old.adapter.uri, "made_for": old.base, "champion": old.champion} for old in adapters
    ]
    if not adapters:
        show("no adapter is outdated", content, as_json)
    elif not retrain:
        show(tables.outdated_table(adapters), content, as_json)
    else:
        from cluster.pool import Pool
        from cluster.pool.retraining import retrain as resubmit

        with Pool.connect(address) as pool:
            retrainings = resubmit(adapters, pool)
        for row, retraining in zip(content, retrainings, strict=True):
            row.update(job=retraining.job, reason=retraining.reason)
        show(tables.retraining_table(retrainings), content, as_json)


def _names_a_version(model: str) -> bool:
    name = model.removeprefix("models:/")
    return name != model and ("@" in name or "/" in name)
