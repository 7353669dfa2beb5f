"""Registration of a finished run's output, with retries while the registry is unreachable."""

from __future__ import annotations

import time
from pathlib import Path

from cluster import registry
from cluster.runs.events import Event, logged
from cluster.tracking import logged_models, runs, store, upload

REGISTER_SECONDS = 120.0
"""How long a finished run tries to register its output."""


def register_run_output(
    run: Path,
    output: Path,
    name: str,
    tags: dict[str, str],
    seconds: float = REGISTER_SECONDS,
    first: bool = True,
    step: int | None = None,
) -> registry.Version:
    """Register the files in ``output`` as a candidate version made by the run in ``run``. Idempotent.

    Args:
        output: the folder of the model's files.
        seconds: how long to try.
        first: make the version champion if the model has none.
        step: the step at which the run had these weights; the last one by default.

    Raises:
        ConnectionError: when the store could not be reached for that long.
    """
    deadline, pause = time.monotonic() + seconds, 1.0
    while True:
        try:
            upload.sync(run, seconds=0)
            version = registry.register_version(
                output,
                name,
                run_id=runs.open_run(run),
                uri=runs.run_uri(run),
                tags=tags,
                alias="candidate",
                about=about_run(run, step),
                first=first,
            )
            step = _last_step(run) if step is None else step
            if any(event["step"] == step for event in logged(run, Event.SCORED)):
                with store.session(runs.run_uri(run)) as client:
                    logged_models.link(client, runs.open_run(run), step, version.name, version.version)
            return version
        except ConnectionError as error:
            if isinstance(error, store.RefusedError) or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 30.0)


def about_run(run: Path, step: int | None = None) -> registry.About:
    """Facts about a run's model from the run's folder. The scores are those of its weights at ``step``.

    Args:
        step: the last step by default; the scores of a step that was not validated are unknown.
    """
    step = _last_step(run) if step is None else step
    validations = list(logged(run, Event.VALIDATION))
    last = next((event for event in reversed(validations) if event["step"] == step), {})

    values = {key.removeprefix("validation_"): value for key, value in last.items() if "validation_" in key}
    metric = "accuracy" if "accuracy" in values else "loss"  # a classification has both
    scores = {}
    for key, value in values.items():  # <metric>, or <metric>_<N>
        name, _, depth = key.partition("_")
        if name == metric:
            scores[int(depth or registry.OWN_DEPTH)] = value
    return registry.About(runs.run_settings(run), metric, scores, runs.run_tags(run))


def _last_step(run: Path) -> int:
    return max((event["step"] for event in logged(run, Event.STEP)), default=-1)
