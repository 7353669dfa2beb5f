"""The record of the parts of a run whose mixture of sources changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.runs.events import Event
from data.mixture import Part
from data.stream import MixedStream
from odeformer.files.atomic import new_file

FILE_NAME = "mixture.json"
"""File in a run's folder: all parts of the run, with their sources, weights and stages."""


def record_parts(
    run: Path, stream: MixedStream, step: int, report: Callable[[str, int, Mapping[str, Any]], object]
) -> None:
    """Write the parts of a run that has just been restored, and report one that begins here."""
    parts = [part.model_dump(mode="json") for part in stream.parts]
    with new_file(run / FILE_NAME) as temporary:
        temporary.write_text(json.dumps({"parts": parts}, indent=2), encoding="utf-8")
    last = stream.parts[-1]
    if len(parts) > 1 and last.begin == stream.state_dict()["cursor"]:
        report(Event.NEW_PART, step, {"reason": f"part {len(parts)}, {_words(last)}"})


def _words(part: Part) -> str:
    """The shares of the sources at the beginning of a part."""
    mixture = part.mixture
    weights = [stage.weights for stage in mixture.stages if stage.begin <= part.begin][-1]
    shares = zip(mixture.sources, weights, strict=True)
    return ", ".join(f"{source.name} {weight / sum(weights):.0%}" for source, weight in shares)
