"""``odeformer plan``: what a run on machines that nobody has rented yet would need, take and cost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from launcher.cli.options import AsJson, Overrides

if TYPE_CHECKING:
    from cluster.settings import PretrainSettings

VOCABULARY = 32_000


def plan(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")],
    overrides: Overrides = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="The run's workers when not given.")] = None,
    gpu: Annotated[Literal["a100", "h100", "h200", "b200"], typer.Option(help="Kind of GPU.")] = "h100",
    interconnect: Annotated[
        Literal["ndr400", "hdr200", "ethernet100", "ethernet25"], typer.Option(help="Between nodes.")
    ] = "ndr400",
    efficiency: Annotated[
        float, typer.Option(min=0.01, max=1, help="Part of its peak that a GPU reaches in products.")
    ] = 0.45,
    price: Annotated[float | None, typer.Option(min=0, help="Of one GPU for an hour.")] = None,
    vocabulary: Annotated[
        int | None, typer.Option(min=1, help=f"{VOCABULARY:,} when neither this nor shards are there.")
    ] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="The run many times, with failures, restarts and commits.")
    ] = False,
    spares: Annotated[
        int | None, typer.Option(min=0, help="Of --simulate: nodes; one for each 64 when not given.")
    ] = None,
    preemptions: Annotated[
        float | None, typer.Option(min=0, max=1000, help="Of --simulate: a day, of the whole run.")
    ] = None,
    stragglers: Annotated[
        float | None, typer.Option(min=0, max=1000, help="Of --simulate: nodes that become slow in a day.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of --simulate.")] = 0,
    as_json: AsJson = False,
) -> None:
    """What a run would need, take and cost. Example: odeformer plan large --gpus 64 --gpu h100"""
    if not simulate and any(one is not None for one in (spares, preemptions, stragglers)):
        raise typer.BadParameter("--spares, --preemptions and --stragglers are of --simulate: add it")
    from cluster import planning
    from cluster.planning import Machines, choices, estimate
    from cluster.planning.hardware import GPUS, NETWORKS
    from launcher.configuration.load import load_pretrain
    from launcher.tables.estimate import show_estimate
    from launcher.tables.simulation import show_simulated
    from launcher.terminal.console import make_console

    settings = _with_vocabulary(load_pretrain(config, overrides or []), vocabulary)
    count = gpus or settings.cluster.workers
    machines = Machines(count, GPUS[gpu], NETWORKS[interconnect], efficiency, price)
    given = estimate(settings, machines)
    ordered = choices(settings, machines)
    simulated = None
    if simulate:
        run = planning.long_run(given, spares, preemptions or 0.0, stragglers or 0.0)
        simulated = planning.summary(run, planning.simulate(run, seed), seed)
    if as_json:
        content = {"given": given.content(), "choices": [one.content() for one in ordered]}
        print(json.dumps(content | ({"simulated": simulated} if simulated else {}), indent=2))
        return
    console = make_console()
    show_estimate(given, ordered, console)
    if simulated:
        show_simulated(given, simulated, console)


def _with_vocabulary(settings: PretrainSettings, vocabulary: int | None) -> PretrainSettings:
    """Vocabulary and context as given, by the shards where these are there, or assumed."""
    from pathlib import Path

    from cluster.resolve import complete_model
    from data.manifest import load_manifest

    model = settings.model
    shards = Path(settings.data.shards)
    if vocabulary is None and (shards / "manifest.json").is_file():
        return settings.model_copy(update={"model": complete_model(settings, load_manifest(shards))})
    chosen = {
        "vocabulary_size": vocabulary or model.vocabulary_size or VOCABULARY,
        "context_length": model.context_length or settings.data.sequence_length,
    }
    return settings.model_copy(update={"model": model.model_copy(update=chosen)})
