"""The command ``odeformer pretrain``."""

from __future__ import annotations

import json
from typing import Annotated

from typer import Option

from cluster.runs.preemption import resumable
from launcher import preflight
from launcher.cli.options import Config, DryRun, DryRunAsJson, Overrides
from launcher.cli.output import check_installed, make_progress, say, show


@resumable()
def pretrain(
    config: Config,
    overrides: Overrides = None,
    init: Annotated[
        str | None,
        Option(help="Start from this model's weights and shape: models:/<name>@<alias> or a folder."),
    ] = None,
    dry_run: DryRun = False,
    as_json: DryRunAsJson = False,
) -> None:
    """Pretrain a model.

    Example: odeformer pretrain tiny --set data.shards=shards --set run.dir=runs/mine
    """
    with_init = [f"init={json.dumps(init)}"] if init else []
    run_pretraining(config, [*(overrides or []), *with_init], dry_run, as_json)


def run_pretraining(config: str, overrides: list[str], dry_run: bool, as_json: bool) -> None:
    """Run a pretraining configuration with these overrides, or show its dry run.

    Raises:
        ValueError, FileNotFoundError: For a mistake in the settings, before anything starts.
    """
    from cluster.checkpoints import identity, scores
    from launcher.configuration.load import load_pretrain

    if as_json and not dry_run:
        raise ValueError("--json needs --dry-run")
    settings = load_pretrain(config, overrides)
    if settings.init is not None and not (settings.run.dir / identity.FILE_NAME).is_file():
        preflight.at_model(settings.init, settings.tracking.uri)
    if settings.teacher is not None:
        preflight.at_model(settings.teacher.model, settings.tracking.uri)
    preflight.at_shards(*(source.shards for source in settings.data.mixed))
    if settings.evaluate.tasks:
        check_installed("eval", "lm_eval")
    from cluster import pretrain as pretraining
    from cluster.connection.connect import ray_cluster
    from cluster.resolve import resolve_run
    from launcher.terminal.pretrain_watcher import PretrainWatcher

    run = resolve_run(settings)
    settings = run.settings
    if dry_run:
        from cluster.planning.dry_run import dry_run as preview
        from launcher.tables.dry_run import dry_run_report

        previewed = preview(settings, run.teacher)
        show(dry_run_report(previewed), previewed.content(), as_json)
        return

    progress, cluster = make_progress(), settings.cluster
    with progress.stage(f"pretraining in {settings.run.dir}"):
        watcher = PretrainWatcher(settings, progress)
        with ray_cluster(
            cluster.address, pretrain_workers=cluster.workers, cpus_per_worker=cluster.cpus_per_worker
        ):
            version = pretraining.pretrain(run, watcher)

    say(f"  weights: {settings.run.dir / 'final'}")
    record = scores.read(settings.run.dir)
    if record is not None and record.best is not None:
        best = record.best
        say(f"  best: {settings.run.dir / 'best'}, of step {best.step} ({best.score} {best.value:.4g})")
    if version is not None:
        from launcher.tables.versions import registered_line

        say(f"  {registered_line(version)}")
    elif settings.tracking.register_as is not None:
        say(f"  trained, not registered; later: odeformer models register {settings.run.dir}")
