"""Registration of a finished run's output, with retries while the registry is unreachable."""

from __future__ import annotations

import time
from pathlib import Path

from cluster import registry
from cluster.runs.events import FILE_NAME, Event, events_from
from cluster.tracking import runs, store, upload

REGISTER_SECONDS = 120.0
"""How long a finished run tries to register its output."""


def register_run_output(
    run: Path,
    output: Path,
    name: str,
    tags: dict[str, str],
    seconds: float = REGISTER_SECONDS,
    first: bool = True,
) -> registry.Version:
    """Register the files in ``output`` as a candidate version made by the run in ``run``. Idempotent.

    Args:
        output: the folder of the model's files.
        seconds: how long to try.
        first: make the version champion if the model has none.

    Raises:
        ConnectionError: when the store could not be reached for that long.
    """
    deadline, pause = time.monotonic() + seconds, 1.0
    while True:
        try:
            upload.sync(run, seconds=0)
            return registry.register_version(
                output,
                name,
                run_id=runs.open_run(run),
                uri=runs.run_uri(run),
                tags=tags,
                alias="candidate",
                about=about_run(run),
                first=first,
            )
        except ConnectionError as error:
            if isinstance(error, store.RefusedError) or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 30.0)


def about_run(run: Path) -> registry.About:
    """Facts about a run's model from the run's folder. The scores are those of its final weights."""
    events = events_from(run / FILE_NAME, 0)[0]
    validations = [event for event in events if event.get("event") == Event.VALIDATION]
    steps = [event["step"] for event in events if event.get("event") == Event.STEP]
    # An earlier validation says nothing of the final weights.
    is_final = bool(validations) and validations[-1]["step"] == max(steps, default=-1)
    last = validations[-1] if is_final else {}

    values = {key.removeprefix("validation_"): value for key, value in last.items() if "validation_" in key}
    metric = "accuracy" if "accuracy" in values else "loss"  # a classification has both
    scores = {}
    for key, value in values.items():  # <metric>, or <metric>_<N>
        name, _, depth = key.partition("_")
        if name == metric:
            scores[int(depth or registry.OWN_DEPTH)] = value
    return registry.About(runs.run_settings(run), metric, scores, runs.run_tags(run))
