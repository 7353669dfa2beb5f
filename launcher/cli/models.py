"""``odeformer models``: ways into the registry and out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from launcher import preflight
from launcher.cli.options import Model, Overwrite, TrackingUri

models_app = typer.Typer(help="The model registry.", no_args_is_help=True)


@models_app.command("export")
def models_export(
    model: Model,
    out: Annotated[Path, typer.Option(help="The folder to write; with --gguf the file.")],
    depth: Annotated[
        int | None, typer.Option(help="N, the layers it will have; the model depth when not given.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="An adapter to merge, models:/<name>/<version> or a folder.")
    ] = None,
    peft: Annotated[
        bool, typer.Option("--peft", help="Write the adapter alone, for peft and the base at this depth.")
    ] = False,
    gguf: Annotated[
        Literal["f32", "f16", "q8_0"] | None,
        typer.Option(help="Write a GGUF file for llama.cpp, its matrices in this precision."),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Measure the loss on this text, for the model card.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """An ordinary checkpoint. Example: odeformer models export --model models:/tiny@champion --out tiny-8"""
    from launcher.terminal.console import make_console
    from launcher.transfer import export

    done = export(model, adapter, depth, peft, gguf, text, out, overwrite, tracking_uri)
    what = "the adapter, for peft" if peft else f"an ordinary transformer of {done.layers} layers"
    lines = [f"{out}: {what} at N = {done.layers}" if peft else f"{out}: {what}"]
    own = "are the rounded weights'; from the model's own they " if gguf else ""
    lines.append(
        f"loaded again, its logits {own}differ by at most {done.difference:.1e} of their standard deviation"
    )
    if done.in_half:
        lines.append(f"{done.in_half} matrices are f16: their rows are no whole number of blocks of 32")
    if done.trained_by != done.solver:
        lines.append(f"trained by {done.trained_by}; its layers are {done.solver}'s steps")
    lines += [f"by {solver}: {loss:.4f} nats/token" for solver, loss in done.losses.items()]
    make_console().print("\n".join(lines), highlight=False, soft_wrap=True)


@models_app.command("import")
def models_import(
    source: Annotated[Path, typer.Option("--from", help="A checkpoint folder of transformers.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    size: Annotated[
        int, typer.Option(min=0, help="K, the weight sets; as many as it has layers when 0.")
    ] = 0,
    text: Annotated[
        Path | None, typer.Option(help="Measure the loss on this text, before and after.")
    ] = None,
    register: Annotated[str | None, typer.Option(metavar="NAME", help="Register it under this name.")] = None,
    overwrite: Overwrite = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """An ordinary checkpoint as an ODE. Example: odeformer models import --from pythia --out pythia-ode"""
    from launcher.tables.versions import registered_line
    from launcher.terminal.console import make_console
    from launcher.transfer import import_checkpoint

    done = import_checkpoint(source, out, size, overwrite, text, register, tracking_uri)
    lines = [
        f"{out}: {done.layers} layers as {done.size} weight sets, {done.parameters:,} parameters "
        f"({done.ordinary_parameters:,} before)",
        f"the layers at N = {done.layers}: off by {done.error:.1e} of their norm, "
        f"condition {done.condition:.3g}",
        *(f"{name:<10} {loss:.4f} nats/token" for name, loss in done.losses.items()),
    ]
    if done.version is not None:
        lines.append(registered_line(done.version))
    make_console().print("\n".join(lines), highlight=False, soft_wrap=True)


@models_app.command("register")
def models_register(
    run: Annotated[
        Path, typer.Argument(metavar="RUN_DIR", help="The run.dir of a finished run, or a job's folder.")
    ],
    name: Annotated[str | None, typer.Option(help="Another name than the run's register_as.")] = None,
) -> None:
    """Register what a run made while the registry was away. Example: odeformer models register runs/a"""
    from cluster.names import check_model_name

    if name is not None:
        check_model_name(name)
    preflight.at_run(run)
    from cluster import pretrain
    from cluster.finetuning import job
    from launcher.tables.versions import registered_line
    from launcher.terminal.console import make_console

    of_a_job = (run / job.VERSION_FILE).is_file()
    version = job.register_job(run, name) if of_a_job else pretrain.register_finished_run(run, name)
    make_console().print(registered_line(version), highlight=False, soft_wrap=True)
