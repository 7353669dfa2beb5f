"""Tasks of the LM Evaluation Harness, asked of the ordinary model that a depth of a model is."""

from __future__ import annotations

import difflib
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from odeformer.model import Odeformer

OWN_TASKS = Path(__file__).parent / "tasks"
"""Those that come with the package, made by ``benchmarks.quality.python_tasks``."""
BATCH = 16
BOOTSTRAP = 1000
"""Samples drawn again for the error of a metric that has no formula for it."""


class TaskScore(NamedTuple):
    """One metric of one task at one depth."""

    task: str
    metric: str
    depth: int
    value: float
    error: float | None
    """Its standard error, where the harness knows one."""
    samples: int
    truncated: int
    """Requests of all tasks at this depth whose beginning was cut off, as they did not fit the context."""


class Tasks:
    """Tasks that are known to be there, each by its name, that of its group, or its tag.

    Those of a folder read files named in them from that folder.
    """

    def __init__(self, names: Sequence[str], folder: Path | None = None) -> None:
        """
        Args:
            names: of tasks, groups or tags.
            folder: with YAML files of the harness; the package's own when not given. It may hold Python
                code, which is run.

        Raises:
            ValueError: without the harness, for a folder that is none, or an unknown name.
        """
        try:
            from lm_eval.tasks import TaskManager
        except ImportError:
            raise ValueError(
                "--tasks needs the LM Evaluation Harness: install it with pip install -e '.[eval]'"
            ) from None
        self.names = list(dict.fromkeys(names))
        self.folder = (folder or OWN_TASKS).absolute()
        if not self.folder.is_dir():
            raise ValueError(f"{folder} is no folder of tasks: give one with the harness's YAML files")
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        # The harness's own 15,000 names take it ten seconds to read. Groups may refer to them.
        self.manager = TaskManager(include_path=str(self.folder), include_defaults=False)
        if not set(self.names) <= {*self.manager.all_subtasks, *self.manager.all_tags}:
            self.manager = TaskManager(include_path=str(self.folder))
        known = self.manager.all_tasks
        for name in self.names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
                hint = f"; near it: {', '.join(near)}" if near else ""
                raise ValueError(f"task {name!r} is neither the harness's nor in {self.folder}{hint}")

    def ask(self, lm: Any, limit: int | None = None) -> dict[str, Any]:
        """What ``lm_eval.simple_evaluate`` returns for a model of the harness, with all samples.

        Args:
            lm: such as :func:`ordinary` makes.
            limit: questions of each task, the first ones; all when not given.

        Raises:
            ValueError: for a task that this model cannot be asked.
            OSError: for data that cannot be had.
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
                raise ValueError(
                    f"{', '.join(self.names)} cannot be asked of this model: {reason}"
                ) from error
            except (OSError, ValueError, ArithmeticError):
                raise
            except Exception as error:  # a task is somebody's YAML, templates and code
                reason = f"{type(error).__name__}: {error}"
                raise ValueError(f"{', '.join(self.names)}: the task cannot be read ({reason})") from error
        return {**results, "truncated": cut.count}


def ordinary(model: Odeformer, tokenizer: Path, depth: int, folder: Path) -> Any:
    """The model at this depth, adapters merged, as a model of the harness, by way of an exported folder.

    Args:
        model: its layers are those of ``odeformer models export``.
        tokenizer: its ``tokenizer.json``.
        depth: N.
        folder: where the export is written.

    Raises:
        ValueError: for layers that no class of ``transformers`` has.
    """
    from data.tokenizer import end_of_text, load_tokenizer
    from odeformer.interop.hf.exporting import export

    with _quietly():
        export(model, tokenizer, depth, "", folder, end_of_text(load_tokenizer(tokenizer)))
    return harness_model(folder)


def harness_model(folder: Path, **arguments: Any) -> Any:
    """A folder that ``AutoModelForCausalLM`` loads as a model of the harness, on the GPU if there is one."""
    import torch
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
    """Every metric of every task at each depth.

    Args:
        tasks, limit: as in :meth:`Tasks.ask`.
        model, tokenizer: as in :func:`ordinary`.
        progress: told the fraction that is done, and the depth that is not.
    """
    import tempfile

    found = []
    for index, depth in enumerate(depths):
        progress(index / len(depths), f"N = {depth}")
        with tempfile.TemporaryDirectory() as folder:
            lm = ordinary(model, tokenizer, depth, Path(folder) / "exported")
            found += task_scores(tasks.ask(lm, limit), depth)
    return found


def task_scores(results: dict[str, Any], depth: int) -> list[TaskScore]:
    """The numbers in what :meth:`Tasks.ask` returned."""
    found = []
    for task, metrics in results["results"].items():
        samples = results["n-samples"].get(task, {}).get("effective", 0)
        for key, value in metrics.items():
            # "acc,none", and "acc_stderr,none" beside it; "none" is the filter that does nothing.
            name, _, kind = key.partition(",")
            if not kind or name.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = metrics.get(f"{name}_stderr,{kind}")
            found.append(
                TaskScore(
                    task=task,
                    metric=name if kind == "none" else f"{name} {kind}",
                    depth=depth,
                    value=float(value),
                    error=float(error) if isinstance(error, int | float) else None,
                    samples=samples,
                    truncated=results["truncated"],
                )
            )
    return found


class _Truncations(logging.Handler):
    """Counts what the harness says of requests that are too long: it is nowhere in its results."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "from the left" in record.getMessage() or "truncation applied" in record.getMessage()


@contextmanager
def _handler(name: str, handler: logging.Handler) -> Iterator[None]:
    """Let the handler alone hear a logger's warnings."""
    logger = logging.getLogger(name)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without progress bars and remarks on either stream, nor a pool of processes for the errors.

    The harness also asks git and pip about the machine, and git complains on the stream itself.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # every try to reach it again
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    stream, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        os.dup2(stream, 2)
        os.close(stream)
        os.close(nowhere)
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before
