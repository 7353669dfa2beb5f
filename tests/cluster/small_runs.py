"""Small runs in real processes, and their results."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from empty_store import empty_store
from forked import spawn
from torch import distributed as dist

from cluster import pretrain
from cluster.resolve import resolve_run
from cluster.runs.events import FILE_NAME, Event, events_from
from cluster.settings import PretrainSettings
from odeformer.config import BasisConfig, ModelConfig


def tiny_shape(vocabulary_size: int, context_length: int) -> ModelConfig:
    """A model of width 16 and D = 4 from two weight sets."""
    return ModelConfig(
        width=16,
        heads=2,
        depth=4,
        rotary_fraction=0.5,
        basis=BasisConfig(size=2),
        vocabulary_size=vocabulary_size,
        context_length=context_length,
    )


def small_settings(shards: Path, folder: Path, **sections: dict[str, Any]) -> PretrainSettings:
    """Resolved settings of a short run in ``folder/run``; ``section={key: value}`` changes them."""
    content: dict[str, dict[str, Any]] = {
        "model": {"width": 32, "heads": 2, "depth": 4, "rotary_fraction": 0.5, "basis": {"size": 2}},
        "data": {"shards": str(shards), "sequence_length": 32},
        "train": {
            "steps": 6,
            "global_batch": 8,
            "micro_batch": 2,
            "depths": [2, 4, 4, 8],
            "validate_every": 3,
            "validation_sequences": 7,
        },
        "optim": {"learning_rate": 5e-3},
        "zero": {"stage": 1, "param_persistence_threshold": 0},
        "cluster": {"workers": 2},
        "checkpoint": {"every": 3, "keep": 3},
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
        "run": {"dir": folder / "run"},
    }
    for section, values in sections.items():
        content[section] = {**content.get(section, {}), **values}
    return resolve_run(PretrainSettings.model_validate(content)).settings


def run_workers(
    settings: PretrainSettings,
    *,
    join: bool = True,
    starts_run: bool = True,
    work: Callable[[dict[str, Any]], None] = pretrain.pretrain_worker,
) -> Any:
    """Run the workers as plain processes with a gloo group, without Ray.

    ``work`` is the worker function, by default that of Ray's workers. ``starts_run``: start the run in
    MLflow, as the command does.
    """
    from cluster.tracking import runs

    assert settings.tracking.uri is not None
    if settings.tracking.uri == f"sqlite:///{settings.run.dir.parent}/mlflow.db":
        empty_store(settings.run.dir.parent)
    if starts_run:
        with suppress(ConnectionError):  # of a store that is away: it is started later
            runs.start_run(
                settings.tracking.uri, "test", "test", settings.model_dump(mode="json"), settings.run.dir
            )
    meeting = settings.run.dir / f"store-{len(list(settings.run.dir.glob('store-*')))}"
    config = {"settings": settings.model_dump(mode="json")}
    return spawn(
        _worker,
        args=(settings.cluster.workers, str(meeting), config, work),
        nprocs=settings.cluster.workers,
        join=join,
    )


NO_FURTHER = "no-further"


def let(run: Path, step: int) -> None:
    """Allow the workers of :func:`held_worker` to continue up to this step."""
    run.mkdir(parents=True, exist_ok=True)
    beside = run / f"{NO_FURTHER}.new"
    beside.write_text(str(step))
    beside.replace(run / NO_FURTHER)


def held_worker(config: dict[str, Any]) -> None:
    """Worker function of a run that stops at each step that :func:`let` does not allow."""
    from cluster.training import worker

    rate, run = worker.learning_rate, Path(config["settings"]["run"]["dir"])

    def wait_and_rate(optim: Any, step: int, steps: int) -> float:
        while step >= int((run / NO_FURTHER).read_text()):
            time.sleep(0.02)
        return rate(optim, step, steps)

    worker.learning_rate = wait_and_rate
    pretrain.pretrain_worker(config)


def _worker(
    rank: int, world: int, meeting: str, config: dict[str, Any], work: Callable[[dict[str, Any]], None]
) -> None:
    import torch

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    work(config)
    dist.destroy_process_group()
    # Everything is written. At an interpreter's exit a communication thread of torch that has not been
    # joined aborts the process now and then; Ray's workers are ended from outside and never get there.
    sys.stdout.flush()
    os._exit(0)


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind in a run's log, all of which must have the fields that are listed for them."""
    logged = events_from(folder / FILE_NAME, 0)[0]
    for event in logged:
        check_event(event)
    return [event for event in logged if event["event"] == kind]


def check_event(event: dict[str, Any]) -> None:
    """Check that an event and its fields are listed in :class:`cluster.runs.events.Event`."""
    listed = Event(event["event"]).fields
    for field in event.keys() - {"time", "event", "step"}:
        assert any(fnmatch(field, pattern) for pattern in listed), f"{event['event']}: {field} is not listed"
