"""Tasks of the LM Evaluation Harness, run on a model exported at a depth.

The harness, package ``lm_eval``, is optional: only functions that need it import it.
"""

from __future__ import annotations

import difflib
import io
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.utils import logging as transformers_logging

from data.tokenizer import end_of_text, load_tokenizer
from odeformer.interop.hf.exporting import export
from odeformer.model import Odeformer

OWN_TASKS = Path(__file__).parent / "tasks"
"""Folder of the package's own tasks, which ``benchmarks.quality.python_tasks`` writes."""
BATCH = 16
BOOTSTRAP = 1000
"""Number of bootstrap samples for the standard error of a metric without a formula for it."""


class TaskScore(NamedTuple):
    """The value of a metric of a task at one depth."""

    task: str
    metric: str
    depth: int
    value: float
    error: float | None
    """Standard error, if the harness reports one."""
    samples: int
    truncated: int
    """Number of requests, over all tasks at this depth, cut off at the beginning to fit the context."""
    higher_is_better: bool

    @property
    def name(self) -> str:
        """Name of the score in MLflow, which ends with the depth."""
        return f"{metric_name(f'{self.task}/{self.metric}')}_{self.depth}"


def metric_name(name: str) -> str:
    """The name of a task, a filter or a text, which may be any, as part of one that MLflow takes."""
    return re.sub(r"[^\w./ -]", "_", name)


class Tasks:
    """Tasks of the harness, its own or those of a folder, whose names have been checked.

    Args:
        names: Names of tasks, groups or tags.
        folder: Folder with YAML files of the harness and the files they name; the package's own by
            default. It may hold Python code, which is run.

    Raises:
        ValueError: For a missing folder or an unknown name.
    """

    def __init__(self, names: Sequence[str], folder: Path | None = None) -> None:
        from lm_eval.tasks import TaskManager

        self.names = list(dict.fromkeys(names))
        self.folder = (folder or OWN_TASKS).absolute()
        if not self.folder.is_dir():
            raise ValueError(f"{folder} is not a folder of tasks: give one with YAML files of the harness")
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        # Reading the harness's own 15,000 names takes ten seconds: only if a name is not in the folder.
        self.manager = TaskManager(include_path=str(self.folder), include_defaults=False)
        if not set(self.names) <= {*self.manager.all_subtasks, *self.manager.all_tags}:
            self.manager = TaskManager(include_path=str(self.folder))
        known = self.manager.all_tasks
        for name in self.names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                raise ValueError(f"task {name!r} is neither in the harness nor in {self.folder}{hint}")

    def ask(self, lm: Any, limit: int | None = None) -> dict[str, Any]:
        """Run the tasks; the result of ``lm_eval.simple_evaluate`` with all samples, and key ``truncated``.

        Args:
            lm: A model of the harness, as from :func:`ordinary`.
            limit: Maximum number of examples per task; all by default.

        Raises:
            ValueError: For a task that cannot be read, or that this model cannot run.
            OSError: For data that cannot be loaded.
        """
        import lm_eval

        cut = _Truncations()
        with _quietly(), chdir(self.folder), _handler("lm_eval.models.huggingface", cut):
            try:
                results: dict[str, Any] = lm_eval.simple_evaluate(
                    lm, tasks=self.names, task_manager=self.manager, limit=limit, bootstrap_iters=BOOTSTRAP
                )
            except AssertionError as error:
                reason = str(error) or f"an answer is longer than its context of {lm.max_length} tokens"
                raise ValueError(f"{', '.join(self.names)} cannot run on this model: {reason}") from error
            except (OSError, ValueError, ArithmeticError):
                raise
            except Exception as error:  # tasks are YAML, templates and code by others: anything may fail
                reason = f"{type(error).__name__}: {error}"
                raise ValueError(f"{', '.join(self.names)}: the task cannot be read ({reason})") from error
        return {**results, "truncated": cut.count}


def ordinary(model: Odeformer, tokenizer: Path, depth: int, folder: Path) -> Any:
    """Export a model at a depth, adapters merged, and load it as a model of the harness.

    Args:
        model: The model to export, as ``odeformer models export`` does.
        tokenizer: Its ``tokenizer.json``.
        depth: Number of layers N.
        folder: Folder to export to.

    Raises:
        ValueError: For layers that no class of ``transformers`` has.
    """
    with _quietly():
        export(model, tokenizer, depth, "", folder, end_of_text(load_tokenizer(tokenizer)))
    return harness_model(folder)


def harness_model(folder: Path, **arguments: Any) -> Any:
    """Load a folder of ``transformers`` as a model of the harness, on the GPU if there is one."""
    from lm_eval.models.huggingface import HFLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with _quietly():
        return HFLM(pretrained=str(folder), device=device, batch_size=BATCH, **arguments)


def score_tasks(
    tasks: Tasks,
    model: Odeformer,
    tokenizer: Path,
    depths: Sequence[int],
    limit: int | None,
    progress: Callable[[float, str], None],
) -> list[TaskScore]:
    """Score every metric of every task at each depth.

    Args:
        tasks, limit: As in :meth:`Tasks.ask`.
        model, tokenizer: As in :func:`ordinary`.
        depths: Depths N.
        progress: Called with the fraction done and the current depth.
    """
    scores = []
    for index, depth in enumerate(depths):
        progress(index / len(depths), f"N = {depth}")
        with tempfile.TemporaryDirectory() as folder:
            lm = ordinary(model, tokenizer, depth, Path(folder) / "exported")
            scores += task_scores(tasks.ask(lm, limit), depth)
    return scores


def task_scores(results: dict[str, Any], depth: int) -> list[TaskScore]:
    """The numbers in a result of :meth:`Tasks.ask`."""
    scores = []
    for task, metrics in results["results"].items():
        samples = results["n-samples"].get(task, {}).get("effective", 0)
        for key, value in metrics.items():
            # Keys are "acc,none" and "acc_stderr,none"; "none" is the name of the empty filter.
            name, _, kind = key.partition(",")
            if not kind or name.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = metrics.get(f"{name}_stderr,{kind}")
            scores.append(
                TaskScore(
                    task=task,
                    metric=name if kind == "none" else f"{name} {kind}",
                    depth=depth,
                    value=float(value),
                    error=float(error) if isinstance(error, int | float) else None,
                    samples=samples,
                    truncated=results["truncated"],
                    higher_is_better=bool(results["higher_is_better"].get(task, {}).get(name, True)),
                )
            )
    return scores


class _Truncations(logging.Handler):
    """Counts the harness's warnings of requests that are too long, which its results do not mention."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "from the left" in record.getMessage() or "truncation applied" in record.getMessage()


@contextmanager
def _handler(name: str, handler: logging.Handler) -> Iterator[None]:
    """Send a logger's warnings to this handler only."""
    logger = logging.getLogger(name)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence both output streams, and disable the pool of processes that computes standard errors.

    The harness runs git and pip to describe the machine, so that the file descriptor is redirected, too.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # logs each retry
    previous = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    stderr, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(devnull)
        if previous is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = previous
