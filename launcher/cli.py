"""The command line. Bodies import what they need: ``odeformer --help`` must not wait for torch."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from cluster.failures import PreemptedError, RunFailedError
from launcher.cli_data import data_app
from launcher.cli_jobs import jobs_app, submit_app
from launcher.cli_models import TrackingUri, models_app
from launcher.cli_track import track_app

# Typer exports only one child of the class that all its usage errors share.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    help="Pretrain one continuous-depth transformer; fine-tune and run it at the depth you can afford.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
finetune_app = typer.Typer(help="Low-rank fine-tuning jobs of teams.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(finetune_app, name="finetune")
app.add_typer(jobs_app, name="jobs")
app.add_typer(models_app, name="models")
app.add_typer(submit_app, name="submit")
app.add_typer(track_app, name="track")

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting; may be repeated."),
]


def main() -> None:
    """Run the command line. A user's mistake is one line and exit code 2, a failed run one line and 1, one
    that was asked to end, and can go on, one line and 75."""
    try:
        code = app(standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        code = 130
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
) -> None:
    """Pretrain a model. Example: odeformer pretrain tiny --set data.shards=shards --set run.dir=runs/mine"""
    from launcher.console import make_console
    from launcher.settings import load_pretrain

    chosen = [*(overrides or []), *([f"init={json.dumps(init)}"] if init else [])]
    settings = load_pretrain(config, chosen)
    from cluster import pretrain as pretraining
    from cluster.connect import ray_cluster
    from launcher.progress import Progress
    from launcher.watch import PretrainWatcher

    settings = pretraining.check(settings)
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
        progress.console.print(f"  registered: {version.uri} (champion)", highlight=False, soft_wrap=True)
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
) -> None:
    """Error, memory and time of every gradient method. Example: odeformer grad-check tiny"""
    from launcher.console import make_console
    from launcher.settings import load_pretrain

    settings = load_pretrain(config, overrides or [])
    from launcher import grad_check as checking
    from launcher.report.tables import gradients_table

    console = make_console()
    for rows in checking.grad_check(settings, depth or [], model):
        title = f"N = {rows[0]['depth']}, {rows[0]['dtype']}, batch {settings.train.micro_batch} × "
        console.print(f"{title}{settings.data.sequence_length}", style="bold", highlight=False)
        console.print(gradients_table(rows))
    console.print(
        "error: of the whole gradient, relative, against backpropagation through the same solve (direct); "
        "beside it what rounding alone does to that one. saved: after the forward pass.",
        highlight=False,
    )


@finetune_app.command("run")
def finetune_run(
    task_file: Annotated[Path, typer.Argument(metavar="TASK.yaml")],
    overrides: Overrides = None,
    tracking_uri: TrackingUri = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; a private one when not given.")
    ] = None,
    directory: Annotated[Path, typer.Option("--dir", help="Where jobs write.")] = Path("runs/finetune"),
) -> None:
    """Run one task on the pool. Example: odeformer finetune run task.yaml"""
    from launcher.console import make_console
    from launcher.settings import load_task

    task = load_task(task_file, overrides or [])
    from cluster import finetune as finetuning
    from cluster.connect import ray_cluster
    from launcher.finetunes import run_tasks
    from launcher.progress import Progress
    from launcher.report.tables import finetune_table

    finetuning.check(task, tracking_uri)
    progress = Progress(make_console())
    with ExitStack() as cluster:
        with progress.stage("Ray"):
            cluster.enter_context(ray_cluster(address, finetune_slots=1))
        results = run_tasks([task], directory, tracking_uri, progress)
        with progress.stage("stopping Ray"):
            cluster.close()
    progress.console.print(finetune_table(results))


@app.command("eval")
def evaluate(
    model: Annotated[
        str, typer.Option(help="models:/<name>@<alias>, models:/<name>/<version>, or a folder.")
    ],
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
    adapter: Annotated[
        str | None, typer.Option(help="An adapter to attach, models:/<name>/<version> or a folder.")
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Score a text or tasks. Example: odeformer eval --model models:/tiny@champion --tasks python_stdlib"""
    names = [name.strip() for given in tasks or [] for name in given.split(",") if name.strip()]
    if text is None and not names:
        raise ValueError("give --text, --tasks or both")
    if not names and (task_folder is not None or limit is not None):
        raise ValueError("--task-folder and --limit are for --tasks: name the tasks")
    from launcher.console import make_console
    from launcher.evaluation import evaluate as score
    from launcher.harness import Tasks
    from launcher.progress import Progress
    from launcher.report.tables import task_scores_table, text_scores_table

    progress = Progress(make_console())
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
    if found.text:
        progress.console.print(text_scores_table(found.text))
    if found.tasks:
        progress.console.print(task_scores_table(found.tasks))
    for remark in found.remarks:
        progress.console.print(remark, highlight=False, soft_wrap=True)


@app.command()
def generate(
    prompt: str,
    model: Annotated[
        str, typer.Option(help="models:/<name>@<alias>, models:/<name>/<version>, or a folder.")
    ],
    depth: Annotated[
        int | None, typer.Option(help="N, the solver cells; the model depth when not given.")
    ] = None,
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
    tracking_uri: TrackingUri = None,
) -> None:
    """Continue a text. Example: odeformer generate --model models:/tiny@champion --depth 4 'It was'"""
    from odeformer.depth import uniform_grid

    for given in (depth, draft_depth):
        if given is not None:
            uniform_grid(given)  # refuses a depth of 0 before anything is loaded
    if depth is not None and latency_ms is not None:
        raise ValueError("give either --depth or --latency-ms")
    if not prompt:
        raise ValueError("the prompt is empty: at least one character is needed")
    if not prompt.isprintable() and any("\ud800" <= character <= "\udfff" for character in prompt):
        raise ValueError("the prompt is not UTF-8 text: convert it")
    from odeformer.sampling import Sampling

    sampling = Sampling(temperature, top_k, top_p)
    from launcher.writing import write

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
    )
    for piece in text:
        print(piece, end="", flush=True)
    print()


@app.command()
def quickstart(
    directory: Annotated[Path, typer.Option("--dir", help="Where everything is written.")] = Path(
        "runs/quickstart"
    ),
) -> None:
    """The whole road in five minutes on two CPU cores. Example: odeformer quickstart"""
    from launcher.quickstart import run

    run(directory)
