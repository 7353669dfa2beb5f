"""``odeformer models``: which versions there are, what they are, and which one is champion."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from launcher.cli.models import models_app
from launcher.cli.options import AsJson, PoolAddress, TrackingUri

Model = Annotated[str, typer.Argument(help="models:/<name>@<alias> or models:/<name>/<version>.")]
NAME = r"models:/<name>, or <name> alone"


@models_app.command("list")
def models_list(as_json: AsJson = False, tracking_uri: TrackingUri = None) -> None:
    """List all versions of all models. Example: odeformer models list"""
    from cluster import registry
    from launcher.tables import versions as report

    found = registry.versions(tracking_uri)
    content = [report.version_content(version) for version in found]
    _show(report.versions_table(found), content, as_json)


@models_app.command("show")
def models_show(
    model: Annotated[str, typer.Argument(help="A version, models:/…; or a model's name, for its history.")],
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """A version, or a model with its history. Example: odeformer models show models:/tiny@champion"""
    from cluster import registry
    from cluster.registry.about import DEPTHS_FILE, LINEAGE_FILE
    from cluster.registry.aliases import read_log
    from cluster.registry.fetching import read_json
    from launcher.tables import versions as report

    if _names_a_version(model):
        version = registry.resolve(model, tracking_uri)
        depths = read_json(version, DEPTHS_FILE, tracking_uri)
        lineage = read_json(version, LINEAGE_FILE, tracking_uri) if as_json else None
        content = {**report.version_content(version), "depths": depths, "lineage": lineage}
        _show(report.version_page(version, depths), content, as_json)
        return
    name = model.removeprefix("models:/")
    found, log = registry.versions(tracking_uri, name), read_log(name, tracking_uri)
    history = [report.move_content(move) for move in log.moves]
    every = [report.version_content(version) for version in found]
    tables = [report.versions_table(found), *(["", report.log_table(log)] if log.moves else [])]
    _show(tables, {"name": name, "versions": every, "history": history}, as_json)


@models_app.command("promote")
def models_promote(
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(
            help="Shards (their validation split) or a text; what it was validated on when not given."
        ),
    ] = None,
    depth: Annotated[int | None, typer.Option(help="N; the model depth when not given.")] = None,
    threshold: Annotated[
        float,
        typer.Option(help="For the difference's interval: 0 asks for better, 0.01 for not worse by more."),
    ] = 0.0,
    sequences: Annotated[int, typer.Option(help="Of shards or a text, at most.")] = 256,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    no_gate: Annotated[bool, typer.Option("--no-gate", help="Promote it whatever it is.")] = False,
    why: Annotated[str, typer.Option(help="For the history.")] = "",
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Make a better version champion. Example: odeformer models promote models:/tiny@candidate"""
    from pydantic import ValidationError

    from cluster.promotion.promote import GateSettings, promote
    from launcher.tables import versions as report

    try:
        gate = GateSettings(data=data, depth=depth, threshold=threshold, sequences=sequences, seed=seed)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"--{first['loc'][0]} {first['input']}: {first['msg']}") from None
    promotion = promote(model, tracking_uri, None if no_gate else gate, why)
    verdict = None if promotion.verdict is None else vars(promotion.verdict)
    content = {
        "version": report.version_content(promotion.version),
        "promoted": promotion.done,
        "before": None if promotion.before is None else promotion.before.version,
        "gate": verdict,
    }
    _show(report.promotion_page(promotion), content, as_json)
    if not promotion.done:
        raise typer.Exit(1)


@models_app.command("rollback")
def models_rollback(
    name: Annotated[str, typer.Argument(help="Of the model.")],
    why: Annotated[str, typer.Option(help="For the history.")] = "",
    tracking_uri: TrackingUri = None,
) -> None:
    """Go back to the champion before this one. Example: odeformer models rollback tiny"""
    from cluster.names import check_model_name
    from cluster.registry import aliases
    from launcher.terminal.console import make_console

    name = name.removeprefix("models:/")
    check_model_name(name)
    version = aliases.rollback(name, tracking_uri, why)
    make_console().print(f"{version.uri} is the champion again", highlight=False, soft_wrap=True)


@models_app.command("diff")
def models_diff(
    first: Model, second: Model, as_json: AsJson = False, tracking_uri: TrackingUri = None
) -> None:
    """What differs. Example: odeformer models diff models:/tiny@candidate models:/tiny@champion"""
    from cluster.registry import family
    from launcher.tables import versions as report

    found = family.diff(first, second, tracking_uri)
    _show(report.diff_table(first, second, found), [vars(one) for one in found], as_json)


@models_app.command("lineage")
def models_lineage(model: Model, as_json: AsJson = False, tracking_uri: TrackingUri = None) -> None:
    """What it was made from, and into. Example: odeformer models lineage models:/tiny@champion"""
    from cluster.registry.family import family
    from launcher.tables import versions as report

    found = family(model, tracking_uri)
    _show(report.family_tree(found), report.family_content(found), as_json)


@models_app.command("outdated")
def models_outdated(
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Have the pool that made them make them anew.")
    ] = False,
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
    address: PoolAddress = None,
) -> None:
    """Adapters whose base is champion no more. Example: odeformer models outdated"""
    from cluster.registry.family import outdated
    from launcher.tables import versions as report

    found = outdated(tracking_uri)
    content: list[dict[str, Any]] = [
        {"adapter": one.adapter.uri, "made_for": one.base, "champion": one.champion} for one in found
    ]
    table = report.outdated_table(found) if found else "no adapter is outdated"
    if found and retrain:
        from cluster.pool import Pool
        from cluster.pool.retraining import retrain as queue_again

        with Pool.connect(address) as pool:
            queued = queue_again(found, pool)
        content = [
            {**row, "job": one.job, "reason": one.reason} for row, one in zip(content, queued, strict=True)
        ]
        table = report.retraining_table(queued)
    _show(table, content, as_json)


def _names_a_version(model: str) -> bool:
    return model.startswith("models:/") and any(mark in model.removeprefix("models:/") for mark in "@/")


def _show(shown: Any, content: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(content, indent=2))
        return
    from launcher.terminal.console import make_console

    for part in shown if isinstance(shown, list) else [shown]:
        make_console().print(part, highlight=False)
