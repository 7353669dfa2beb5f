"""The command line ``odeformer``.

Commands import heavy packages in their bodies, so that ``--help`` and refusals of mistakes are fast.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from io import TextIOWrapper
from typing import Annotated

import typer
from typer import Option

from cluster.runs import preemption
from cluster.runs.failures import PreemptedError, RunFailedError
from launcher.cli.analyze import analyze
from launcher.cli.data import data_app
from launcher.cli.distill import distill
from launcher.cli.doctor import doctor
from launcher.cli.drift import drift
from launcher.cli.evaluate import evaluate
from launcher.cli.finetune import finetune_app
from launcher.cli.generate import generate
from launcher.cli.grad_check import grad_check
from launcher.cli.init import init as write_config
from launcher.cli.jobs import jobs_app, submit_app
from launcher.cli.plan import plan
from launcher.cli.pool import pool_app
from launcher.cli.pretrain import pretrain
from launcher.cli.quickstart import quickstart
from launcher.cli.report import report
from launcher.cli.runs import runs_app
from launcher.cli.serve import serve
from launcher.cli.track import track_app
from launcher.cli.usage import usage
from launcher.cli.versions import models_app
from odeformer import __version__
from odeformer.files.atomic import DISK_ERRORS
from odeformer.files.errors import panics_are_errors
from odeformer.files.shown import masked, visible
from odeformer.files.user import complete_environment

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as in a shell."""
# Typer exports only a subclass of its common base of usage errors.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(requested: bool) -> None:
    if requested:
        print(__version__)
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Pretrain one continuous-depth transformer; fine-tune and run it at any depth."""


def main() -> None:
    """Run the command line, and exit with one line for every error.

    Exit code 2 is a user's mistake, 1 a failed run or a full disk, 75 a preempted run that can be resumed,
    130 Ctrl-C, 143 SIGTERM.
    ``ODEFORMER_TRACEBACK`` in the environment raises mistakes instead.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character is no error
    complete_environment()
    try:
        with preemption.ended_by_sigterm(), panics_are_errors():
            code = app(standalone_mode=False)
        if code == INTERRUPTED:  # Typer handles Ctrl-C silently
            print("interrupted", file=sys.stderr)
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except UsageError as error:
        code = _complain(error.format_message())  # type: ignore[attr-defined]
    except RunFailedError as error:
        _complain(str(error))
        code = 1
    except SystemExit as ended:
        if ended.code not in (preemption.FIRST, preemption.EXIT_CODE):
            raise
        print("ended by SIGTERM", file=sys.stderr)
        code = preemption.EXIT_CODE
    except PreemptedError as error:
        print(f"{error}; the same command resumes it", file=sys.stderr)
        code = os.EX_TEMPFAIL
    except (ValueError, OSError, ArithmeticError) as error:
        if "ODEFORMER_TRACEBACK" in os.environ:
            raise
        code = _complain(str(error))
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            code = 1
    # What is left is the end of the interpreter, which does not change how the command has ended.
    atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> int:
    if message:  # empty after a group without a verb, which has shown its help
        print("error: " + visible(masked(" ".join(message.split()))), file=sys.stderr)
    return 2


# In the order of --help; commands come before groups.
app.command()(pretrain)
app.command()(distill)
app.command("grad-check")(grad_check)
app.command("eval")(evaluate)
app.command()(generate)
app.command()(serve)
app.command()(quickstart)
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
app.add_typer(runs_app, name="runs")
app.add_typer(models_app, name="models")
app.add_typer(finetune_app, name="finetune")
app.add_typer(pool_app, name="pool")
app.add_typer(track_app, name="track")
