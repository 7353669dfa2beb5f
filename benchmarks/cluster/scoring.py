"""The step time of a run with scoring beside it against the same run without.

    python -m benchmarks.cluster.scoring --json benchmarks/results/scoring.json

One worker on one core; the scoring has the machine's other cores, and the lowest priority. Pairs of runs take
turns, each in processes of its own, and differ in `evaluate` alone. Steps count from the first commit on,
when there is always a checkpoint to score. The ratio of each pair is that of the runs' medians; the interval
is Student's, for the mean of the ratios' logarithms.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path

from scipy import stats

from benchmarks import bench
from benchmarks.cluster.overhead import ours, settings_in
from benchmarks.texts import benchmark_texts
from cluster.resolve import resolve_run
from cluster.runs.events import Event, logged
from cluster.settings import PretrainSettings
from data.shards import build

FIRST = 8
"""Step of the first commit; the steps before are not counted."""
STEPS = 32
TEXT_CHARACTERS = 100_000
"""Length of the text that checkpoints are scored on: about as long as training takes to the next one."""


def main() -> None:
    """Measure both in turn, print and write the ratios and their interval."""
    arguments = bench.parser(__doc__, rounds=6).parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    scored = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = benchmark_texts(folder)
        build(texts, folder / "shards", vocabulary_size=2048, sequence_length=256)
        text = folder / "held_out.txt"
        text.write_text(_beginning(texts, TEXT_CHARACTERS), encoding="utf-8")
        for number in range(arguments.rounds):
            ways = ("with", "without") if number % 2 else ("without", "with")
            for way in ways:
                settings = settings_of(folder, text if way == "with" else None)
                ends = bench.in_fresh_process(ours, settings)[FIRST - 1 :]
                seconds[way].append(statistics.median(after - before for before, after in pairwise(ends)))
                scored += len(list(logged(settings.run.dir, Event.SCORED)))
    ratios = [a / b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    result = {
        "ratio": math.exp(statistics.fmean(map(math.log, ratios))),
        "interval": interval(ratios),
        "ratios": ratios,
        "step_seconds": {way: statistics.median(medians) for way, medians in seconds.items()},
        "scored": scored,
        "rounds": arguments.rounds,
        "load": os.getloadavg()[0],
        **bench.stamp("torch"),
    }
    bench.save(arguments.json, result)
    bench.print_row(result)


def settings_of(folder: Path, text: Path | None) -> PretrainSettings:
    """The settings of a new run; with a text, its checkpoints are scored on it."""
    content = settings_in(folder, "off").model_dump(mode="json")
    content["train"] |= {"steps": STEPS, "validate_every": STEPS}
    content["checkpoint"] |= {"every": FIRST}
    if text is not None:
        content["evaluate"] |= {"every": FIRST, "texts": [str(text)]}
    return resolve_run(PretrainSettings.model_validate(content)).settings


def interval(ratios: list[float]) -> list[float]:
    """The 95 % interval of the geometric mean of ratios; none for a single one."""
    if len(ratios) < 2:
        return []
    logs = [math.log(ratio) for ratio in ratios]
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    mean = statistics.fmean(logs)
    return [math.exp(mean - half), math.exp(mean + half)]


def _beginning(texts: list[Path], size: int) -> str:
    """The first characters of texts, joined."""
    joined = ""
    for text in texts:
        joined += text.read_text(encoding="utf-8", errors="replace")
        if len(joined) >= size:
            break
    return joined[:size]


if __name__ == "__main__":
    main()
