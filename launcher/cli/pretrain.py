"""``odeformer pretrain``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from launcher import preflight
from launcher.cli.options import Overrides


def pretrain(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")],
    overrides: Overrides = None,
    init: Annotated[
        str | None, typer.Option(help="Continue from models:/<name>@<alias> or a folder; its shape counts.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show settings, placement and memory, and start nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The dry run for programs.")] = False,
) -> None:
    """Pretrain a model. Example: odeformer pretrain tiny --set data.shards=shards --set run.dir=runs/mine"""
    from launcher.configuration.load import load_pretrain
    from launcher.terminal.console import make_console

    if as_json and not dry_run:
        raise ValueError("--json is of --dry-run")
    chosen = [*(overrides or []), *([f"init={json.dumps(init)}"] if init else [])]
    settings = load_pretrain(config, chosen)
    if settings.init is not None:
        preflight.at_model(settings.init, settings.tracking.uri)
    preflight.at_shards(settings.data.shards)
    from cluster import pretrain as pretraining
    from cluster.connection.connect import ray_cluster
    from cluster.resolve import resolve_run
    from launcher.terminal.pretrain_watcher import PretrainWatcher
    from launcher.terminal.progress import Progress

    run = resolve_run(settings)
    settings = run.settings
    if dry_run:
        from cluster.planning.dry_run import dry_run as look
        from launcher.tables.dry_run import show_dry_run

        made = look(settings)
        if as_json:
            print(json.dumps(made.content(), indent=2))
        else:
            show_dry_run(made, make_console())
        return
    progress, cluster = Progress(make_console()), settings.cluster
    with progress.stage(f"pretraining in {settings.run.dir}"):
        watcher = PretrainWatcher(settings, progress)
        with ray_cluster(
            cluster.address, pretrain_workers=cluster.workers, cpus_per_worker=cluster.cpus_per_worker
        ):
            version = pretraining.pretrain(run, watcher)
    progress.console.print(
        f"  weights: {settings.run.dir / 'final'}", highlight=False, markup=False, soft_wrap=True
    )
    if version is not None:
        from launcher.tables.versions import registered_line

        progress.console.print(f"  {registered_line(version)}", highlight=False, soft_wrap=True)
    elif settings.tracking.register_as is not None:
        later = f"odeformer models register {settings.run.dir}"
        progress.console.print(f"  trained, not registered; later: {later}", highlight=False, soft_wrap=True)
