"""The command line. Bodies import what they need: ``odeformer --help`` must not wait for torch."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from cluster.failures import PreemptedError, RunFailedError
from launcher import first_look
from launcher.cli_analyze import analyze
from launcher.cli_data import data_app
from launcher.cli_doctor import doctor
from launcher.cli_drift import drift
from launcher.cli_finetune import finetune_app
from launcher.cli_init import init as write_config
from launcher.cli_jobs import jobs_app, submit_app
from launcher.cli_options import AsJson, AttachedAdapter, Depth, Model, Overrides, TrackingUri
from launcher.cli_plan import plan
from launcher.cli_pool import pool_app
from launcher.cli_report import report
from launcher.cli_track import track_app
from launcher.cli_usage import usage
from launcher.cli_versions import models_app
from odeformer import __version__

INTERRUPTED = 130
"""Exit code, 128 + SIGINT as in a shell."""
# Typer exports only one child of the class that all its usage errors share.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which, and end.")
    ] = False,
) -> None:
    """Pretrain one continuous-depth transformer; fine-tune and run it at the depth you can afford."""


def main() -> None:
    """Run the command line. A user's mistake is one line and exit code 2, a failed run one line and 1, one
    that was asked to end, and can go on, one line and 75."""
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # what Typer makes of Ctrl-C, without a word
            print("interrupted", file=sys.stderr)
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except UsageError as error:
        code = _complain(error.format_message())  # type: ignore[attr-defined]
    except RunFailedError as error:
        _complain(str(error))
        code = 1
    except PreemptedError as error:
        print(f"{error}; the same command goes on", file=sys.stderr)
        code = os.EX_TEMPFAIL
    except (ValueError, OSError, ArithmeticError) as error:
        if "ODEFORMER_TRACEBACK" in os.environ:
            raise
        code = _complain(str(error))
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> int:
    if message:  # a group without a verb has shown its help instead
        print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


@app.command()
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
    from launcher.console import make_console
    from launcher.settings import load_pretrain

    if as_json and not dry_run:
        raise ValueError("--json is of --dry-run")
    chosen = [*(overrides or []), *([f"init={json.dumps(init)}"] if init else [])]
    settings = load_pretrain(config, chosen)
    if settings.init is not None:
        first_look.at_model(settings.init, settings.tracking.uri)
    first_look.at_shards(settings.data.shards)
    from cluster import pretrain as pretraining
    from cluster.connect import ray_cluster
    from launcher.progress import Progress
    from launcher.watch import PretrainWatcher

    settings = pretraining.check(settings)
    if dry_run:
        from cluster.dry_run import dry_run as look
        from launcher.report.dry_run import show_dry_run

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
            version = pretraining.pretrain(settings, watcher)
    progress.console.print(
        f"  weights: {settings.run.dir / 'final'}", highlight=False, markup=False, soft_wrap=True
    )
    if version is not None:
        from launcher.report.versions import registered_line

        progress.console.print(f"  {registered_line(version)}", highlight=False, soft_wrap=True)
    elif settings.tracking.register_as is not None:
        later = f"odeformer models register {settings.run.dir}"
        progress.console.print(f"  trained, not registered; later: {later}", highlight=False, soft_wrap=True)


@app.command("grad-check")
def grad_check(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")],
    overrides: Overrides = None,
    depth: Annotated[
        list[int] | None, typer.Option(min=1, help="N, may be repeated; the run's own depths when not given.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Trained weights to check: models:/<name>@<alias> or a folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Error, memory and time of every gradient method. Example: odeformer grad-check tiny"""
    from launcher.console import make_console
    from launcher.settings import load_pretrain

    settings = load_pretrain(config, overrides or [])
    first_look.at_shards(settings.data.shards)
    if model is not None:
        first_look.at_model(model, settings.tracking.uri)
    from launcher import grad_check as checking
    from launcher.report.tables import gradients_table

    found = checking.grad_check(settings, depth or [], model)
    if as_json:
        print(json.dumps([row for rows in found for row in rows], indent=2))
        return
    console = make_console()
    for rows in found:
        title = f"N = {rows[0]['depth']}, {rows[0]['dtype']}, batch {settings.train.micro_batch} × "
        console.print(f"{title}{settings.data.sequence_length}", style="bold", highlight=False)
        console.print(gradients_table(rows))
    console.print(
        "error: of the whole gradient, relative, against backpropagation through the same solve (direct); "
        "beside it what rounding alone does to that one. saved: after the forward pass.",
        highlight=False,
    )


@app.command("eval")
def evaluate(
    model: Model,
    text: Annotated[Path | None, typer.Option(help="A file of text.")] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="Tasks of the LM Evaluation Harness, by commas; python_stdlib is here."),
    ] = None,
    task_folder: Annotated[
        Path | None, typer.Option(help="Your own tasks: YAML files of the harness and their data.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask the first so many of each task.")] = None,
    depth: Annotated[
        list[int] | None, typer.Option(help="N, may be repeated; the model depth when not given.")
    ] = None,
    adapter: AttachedAdapter = None,
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Score a text or tasks. Example: odeformer eval --model models:/tiny@champion --tasks python_stdlib"""
    names = [name.strip() for given in tasks or [] for name in given.split(",") if name.strip()]
    if text is None and not names:
        raise ValueError("give --text, --tasks or both")
    if not names and (task_folder is not None or limit is not None):
        raise ValueError("--task-folder and --limit are for --tasks: name the tasks")
    first_look.at_model(model, tracking_uri, adapter)
    from launcher.console import make_console
    from launcher.evaluation import evaluate as score
    from launcher.harness import Tasks
    from launcher.progress import Progress
    from launcher.report.tables import task_scores_table, text_scores_table

    progress = Progress(make_console(as_json))
    with ExitStack() as asking:
        if names:
            asking.enter_context(progress.stage(", ".join(names)))
        found = score(
            model,
            adapter,
            depth or [],
            tracking_uri,
            text=text,
            tasks=Tasks(names, task_folder) if names else None,
            limit=limit,
            progress=progress.update,
        )
    if as_json:
        print(json.dumps(found.content(), indent=2))
        return
    if found.text:
        progress.console.print(text_scores_table(found.text))
    if found.tasks:
        progress.console.print(task_scores_table(found.tasks))
    for remark in found.remarks:
        progress.console.print(remark, highlight=False, soft_wrap=True)


@app.command()
def generate(
    prompt: str,
    model: Model,
    depth: Depth = None,
    latency_ms: Annotated[
        float | None,
        typer.Option(help="Instead of a depth: the deepest that keeps to it for a token here."),
    ] = None,
    draft_depth: Annotated[
        int | None, typer.Option(help="Guess ahead at this smaller depth; the text stays the same.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Matrices of 8-bit numbers: a quarter of the memory, on a CPU.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw among so many of the most likely tokens.")] = 50,
    top_p: Annotated[float, typer.Option(help="… and the fewest that have this probability together.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this string; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**62)] = 0,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say which tokens of the prompt it leaned on, and how sure it is."),
    ] = False,
    audit: Annotated[
        Path | None, typer.Option(help="Append a JSON line about the answer to this file, without its text.")
    ] = None,
    audit_text: Annotated[
        bool, typer.Option("--audit-text", help="Put prompt and answer into that line, too.")
    ] = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Continue a text. Example: odeformer generate --model models:/tiny@champion --depth 4 'It was'"""
    from odeformer.depth import uniform_grid

    for given in (depth, draft_depth):
        if given is not None:
            uniform_grid(given)  # refuses a depth of 0 before anything is loaded
    if depth is not None and latency_ms is not None:
        raise ValueError("give either --depth or --latency-ms")
    if audit_text and audit is None:
        raise ValueError("--audit-text is for --audit: give the file, too")
    if (explain or audit) and find_spec("captum") is None:
        raise ValueError("captum is not installed: pip install -e '.[analyze]'")
    if not prompt:
        raise ValueError("the prompt is empty: at least one character is needed")
    if not prompt.isprintable() and any("\ud800" <= character <= "\udfff" for character in prompt):
        raise ValueError("the prompt is not UTF-8 text: convert it")
    first_look.at_model(model, tracking_uri)
    from odeformer.sampling import Sampling

    sampling = Sampling(temperature, top_k, top_p)
    from launcher.report.explanation import explanation_lines
    from launcher.writing import Answer, write

    answers: list[Answer] = []
    text = write(
        prompt,
        model,
        depth=depth,
        latency_ms=latency_ms,
        draft_depth=draft_depth,
        int8=int8,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop=stop or [],
        seed=seed,
        tracking_uri=tracking_uri,
        explain=explain,
        audit=audit,
        audit_text=audit_text,
        finished=answers.append,
    )
    for piece in text:
        print(piece, end="", flush=True)
    print()
    if explain:
        print("", *explanation_lines(answers[0]), sep="\n")


@app.command()
def quickstart(
    directory: Annotated[Path, typer.Option("--dir", help="Where everything is written.")] = Path(
        "runs/quickstart"
    ),
) -> None:
    """The whole road in five minutes on two CPU cores. Example: odeformer quickstart"""
    from launcher.quickstart import run

    run(directory)


# In the order in which --help has them; commands come before groups.
app.command()(analyze)
app.command()(drift)
app.command()(report)
app.command("init")(write_config)
app.command()(plan)
app.command()(doctor)
app.command()(usage)
app.add_typer(data_app, name="data")
app.add_typer(submit_app, name="submit")
app.add_typer(jobs_app, name="jobs")
app.add_typer(models_app, name="models")
app.add_typer(finetune_app, name="finetune")
app.add_typer(pool_app, name="pool")
app.add_typer(track_app, name="track")
