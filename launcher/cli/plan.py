"""The command ``odeformer plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Option

from launcher import preflight
from launcher.cli.options import AsJson, Config, Overrides
from launcher.cli.output import show

if TYPE_CHECKING:
    from cluster.settings import PretrainSettings
    from cluster.training.teacher import TeacherShape

VOCABULARY = 32_000


def plan(
    config: Config,
    overrides: Overrides = None,
    gpus: Annotated[int | None, Option(min=1, help="Number of GPUs; cluster.workers by default.")] = None,
    gpu: Annotated[Literal["a100", "h100", "h200", "b200"], Option(help="Type of GPU.")] = "h100",
    interconnect: Annotated[
        Literal["ndr400", "hdr200", "ethernet100", "ethernet25"], Option(help="Network between nodes.")
    ] = "ndr400",
    efficiency: Annotated[
        float | None,
        Option(
            min=0.01,
            max=1,
            help="Fraction of peak FLOP/s that matmuls reach. Default: published values.",
        ),
    ] = None,
    price: Annotated[float | None, Option(min=0, help="Price of one GPU hour, in any currency.")] = None,
    vocabulary: Annotated[
        int | None, Option(min=1, help=f"Vocabulary size; the shards' or {VOCABULARY:,} by default.")
    ] = None,
    simulate: Annotated[
        bool, Option("--simulate", help="Simulate the run with random failures, too.")
    ] = False,
    spares: Annotated[
        int | None, Option(min=0, help="Spare nodes, for --simulate; one per 64 by default.")
    ] = None,
    preemptions: Annotated[
        float | None, Option(min=0, max=1000, help="Preemptions of the whole run per day, for --simulate.")
    ] = None,
    stragglers: Annotated[
        float | None, Option(min=0, max=1000, help="Number of nodes that turn slow per day, for --simulate.")
    ] = None,
    seed: Annotated[int, Option(help="Random seed of --simulate.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Estimate memory, time and cost of a run.

    Example: odeformer plan large --gpus 64 --gpu h100
    """
    if not simulate and any(option is not None for option in (spares, preemptions, stragglers)):
        raise typer.BadParameter("--spares, --preemptions and --stragglers need --simulate: add it")
    from launcher.configuration.load import load_pretrain

    settings = load_pretrain(config, overrides or [])
    if settings.teacher is not None:
        preflight.at_model(settings.teacher.model, settings.tracking.uri)
    from cluster import planning
    from cluster.planning.hardware import GPUS, NETWORKS
    from launcher.tables.plan import estimate_report, simulation_report

    settings, teacher = _completed(settings, vocabulary)
    count = gpus or settings.cluster.workers
    machines = planning.Machines(count, GPUS[gpu], NETWORKS[interconnect], efficiency, price)
    estimate = planning.estimate(settings, machines, teacher)
    choices = planning.choices(settings, machines, teacher)
    report = estimate_report(estimate, choices)
    content = {"given": estimate.content(), "choices": [choice.content() for choice in choices]}
    if simulate:
        run = planning.long_run(estimate, spares, preemptions or 0.0, stragglers or 0.0)
        simulated = planning.summary(run, planning.simulate(run, seed), seed)
        report += simulation_report(estimate, simulated)
        content["simulated"] = simulated
    show(report, content, as_json)


def _completed(
    settings: PretrainSettings, vocabulary: int | None
) -> tuple[PretrainSettings, TeacherShape | None]:
    """Set vocabulary and context, as given, from the teacher or the shards if they exist, or assumed.

    Returns:
        The settings, and the teacher's shape.
    """
    from cluster.resolve import complete_model, read_teacher
    from data.manifest import load_manifest

    shards, teacher = Path(settings.data.mixed[0].shards), None
    known = vocabulary is None and (shards / "manifest.json").is_file()
    manifest = load_manifest(shards) if known else None
    size = vocabulary or settings.model.vocabulary_size
    model = settings.model.model_copy(update={"vocabulary_size": size})
    settings = settings.model_copy(update={"model": model})
    if settings.teacher is not None:
        settings, teacher, _ = read_teacher(settings, manifest)
    if manifest is not None:
        model = complete_model(settings, manifest)
    else:
        model = settings.model.model_copy(
            update={
                "vocabulary_size": settings.model.vocabulary_size or VOCABULARY,
                "context_length": settings.model.context_length or settings.data.sequence_length,
            }
        )
    return settings.model_copy(update={"model": model}), teacher
