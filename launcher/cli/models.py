"""The commands ``odeformer models`` that export, import and register models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from launcher import preflight
from launcher.cli.options import Depth, Model, Overwrite, TrackingUri, parse_depths
from launcher.cli.output import check_installed, say
from odeformer.files import checks

models_app = typer.Typer(help="Manage the model registry; import and export models.", no_args_is_help=True)


@models_app.command("export")
def models_export(
    model: Model,
    out: Annotated[Path | None, Option(help="Folder to write to, or with --gguf the file.")] = None,
    depth: Depth = None,
    adapter: Annotated[
        str | None, Option(help="Adapter to merge: models:/<name>/<version> or a folder.")
    ] = None,
    peft: Annotated[bool, Option("--peft", help="Export only the adapter, for the library peft.")] = False,
    gguf: Annotated[
        Literal["f32", "f16", "q8_0"] | None,
        Option(help="Write a GGUF file for llama.cpp, with weights of this type."),
    ] = None,
    text: Annotated[Path | None, Option(help="Text file to measure the loss on, for the model card.")] = None,
    serve: Annotated[
        Path | None,
        Option(help="Folder for vLLM, instead of --out: one export per depth, adapters, a start script."),
    ] = None,
    depths: Annotated[str, Option(help="Depths N to write with --serve, comma-separated.")] = "",
    overwrite: Overwrite = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Export one depth for transformers, or several for vLLM.

    Example: odeformer models export --model models:/m/1 --out m-8
    """
    if serve is not None:
        if out or depth or peft or gguf or text:
            raise ValueError("--serve goes with --model, --adapter and --depths alone: see docs/vllm.md")
        _export_for_vllm(model, adapter, depths, serve, overwrite, tracking_uri)
        return
    if depths:
        raise ValueError("--depths is for --serve: give one --depth")
    if out is None:
        raise ValueError("nothing says where to write: give --out, or --serve for vLLM")
    if peft and gguf:
        raise ValueError("give either --peft or --gguf")
    if text is not None and (peft or gguf):
        raise ValueError("--text is for a whole checkpoint: leave it out, or --peft and --gguf")
    sources = [Path(name) for name in (model, adapter) if name]
    if gguf:
        checks.check_output_file(out.absolute(), sources, overwrite, checks.is_our_gguf)
        check_installed("gguf", "gguf")
    else:
        checks.check_output(out.absolute(), sources, overwrite, checks.EXPORT)
    preflight.at_model(model, tracking_uri, adapter)
    from launcher.transfer import export

    exported = export(model, adapter, depth, peft, gguf, text, out.absolute(), tracking_uri)
    layers, solver = exported.layers, exported.solver
    what = f"the adapter, for peft at N = {layers}" if peft else f"an ordinary transformer of {layers} layers"
    logits = (
        "the rounded weights' logits differ from the model's" if gguf else "loaded again, its logits differ"
    )
    say(f"{out}: {what}", f"{logits} by at most {exported.difference:.1e} of their standard deviation")
    if exported.in_half:
        say(f"{exported.in_half} matrices are f16: their rows do not divide into blocks of 32")
    if exported.trained_by != solver:
        say(f"trained with {exported.trained_by}; the layers are steps of {solver}")
    say(*(f"with {name}: {loss:.4f} nats/token" for name, loss in exported.losses.items()))


def _export_for_vllm(
    model: str, adapter: str | None, depths: str, out: Path, overwrite: bool, tracking_uri: str | None
) -> None:
    chosen = parse_depths(depths)
    if not chosen:
        raise ValueError("--serve needs --depths, such as 4,8")
    sources = [Path(name) for name in (model, adapter) if name]
    checks.check_output(out.absolute(), sources, overwrite, checks.FOR_VLLM, option="--serve")
    preflight.at_model(model, tracking_uri, adapter)
    from launcher.for_vllm import export_for_vllm

    exported = export_for_vllm(model, adapter, chosen, out.absolute(), tracking_uri)
    say(*(f"left out: {line}" for line in exported.left_out))
    say(
        f"{out}: {exported.name} at N = {', '.join(map(str, exported.depths))}",
        f"adapters: {', '.join(exported.adapters) or 'none'}",
        f"loaded again, logits differ by at most {exported.difference:.1e} of their standard deviation",
        f"serve with {out / 'serve.sh'} {exported.depths[0]}",
    )


@models_app.command("import")
def models_import(
    source: Annotated[Path, Option("--from", help="Folder of a transformers checkpoint.")],
    out: Annotated[Path, Option(help="Folder to write to.")],
    size: Annotated[int, Option(min=0, max=4096, help="Number of weight sets K; 0 means one per layer.")] = 0,
    text: Annotated[Path | None, Option(help="Text file to measure the loss on, before and after.")] = None,
    register: Annotated[
        str | None, Option(metavar="NAME", help="Register the model under this name.")
    ] = None,
    overwrite: Overwrite = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Import a GPT-NeoX, Llama or GPT-2 model.

    Example: odeformer models import --from pythia --out p
    """
    checks.check_output(out.absolute(), [source], overwrite, checks.CHECKPOINT)
    if register is not None:
        from cluster.names import check_model_name

        check_model_name(register)
    checks.check_is_there(source / "config.json", checks.TRANSFORMERS_EXPECTED)
    from launcher.tables.versions import registered_line
    from launcher.transfer import import_checkpoint

    imported = import_checkpoint(source, out.absolute(), size, text, register, tracking_uri)
    say(
        f"{out}: {imported.layers} layers as {imported.size} weight sets, {imported.parameters:,} parameters "
        f"({imported.ordinary_parameters:,} before)",
        f"the layers at N = {imported.layers}: off by {imported.error:.1e} of their norm, "
        f"condition {imported.condition:.3g}",
        f"its logits there differ from those of transformers by at most {imported.difference:.1e} of their "
        "standard deviation",
        *(f"{name:<10} {loss:.4f} nats/token" for name, loss in imported.losses.items()),
    )
    if imported.version is not None:
        say(registered_line(imported.version))
    if imported.not_registered is not None:
        raise ValueError(f"{out} is not registered: {imported.not_registered}")


@models_app.command("register")
def models_register(
    run: Annotated[Path, Argument(metavar="RUN_DIR", help="A run's run.dir, or a fine-tuning job's folder.")],
    name: Annotated[str | None, Option(help="Model name; the run's tracking.register_as by default.")] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Register the result of a finished run or fine-tuning job.

    Example: odeformer models register runs/a
    """
    if name is not None:
        from cluster.names import check_model_name

        check_model_name(name)
    preflight.at_run(run, tracking_uri)
    from cluster import pretrain
    from cluster.finetuning import job
    from launcher.tables.versions import registered_line

    is_job = (run / job.VERSION_FILE).is_file()
    version = job.register_job(run, name) if is_job else pretrain.register_finished_run(run, name)
    say(registered_line(version))
