"""What a run made goes into the registry at its end, which may be away just then."""

from __future__ import annotations

import time
from pathlib import Path

from cluster import registry
from cluster.runs.events import FILE_NAME, Event, events_from
from cluster.tracking import runs, store, upload

REGISTER_SECONDS = 120.0
"""How long a run that has been trained tries to register what it made."""


def register(
    run: Path,
    made: Path,
    name: str,
    tags: dict[str, str],
    seconds: float = REGISTER_SECONDS,
    first: bool = True,
) -> registry.Version:
    """Register the files in ``made``, what the run in ``run`` came to; done again, no second version is made.

    It is then the candidate of ``name``, and if ``first`` champion where there is none.

    Raises:
        ConnectionError: when the store could not be reached for so many seconds.
    """
    deadline, pause = time.monotonic() + seconds, 1.0
    while True:
        try:
            upload.sync(run, seconds=0)
            return registry.register(
                made,
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
    """What the folder of a finished run knows of what it made: scores are of its very last weights."""
    events = events_from(run / FILE_NAME, 0)[0]
    validations = [event for event in events if event.get("event") == Event.VALIDATION]
    steps = [event["step"] for event in events if event.get("event") == Event.STEP]
    last = validations[-1] if validations and validations[-1]["step"] == max(steps, default=-1) else {}
    settings = runs.run_settings(run)
    found = {key.removeprefix("validation_"): value for key, value in last.items() if "validation_" in key}
    metric = "accuracy" if "accuracy" in found else "loss"  # a classification has both
    parts = {key: key.partition("_") for key in found}
    scores = {
        int(n or registry.OWN_DEPTH): found[key] for key, (name, _, n) in parts.items() if name == metric
    }
    return registry.About(settings, metric, scores, runs.run_tags(run))
