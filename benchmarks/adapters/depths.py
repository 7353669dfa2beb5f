"""An adapter for all depths of a model trained as the presets are, against an adapter for each depth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.adapters.gains import GSM8K, LORA_RATES, SST2, Study, Text, Way, chosen
from benchmarks.bench import Claim, Row, select, table, verdict
from benchmarks.quality.claims import half_interval
from benchmarks.quality.rows import DEPTH

OFFERED = {"D/2": DEPTH // 2, "3D/4": 3 * DEPTH // 4, "D": DEPTH}
"""The depths that the base is trained at, by their names."""


def ways(rates: tuple[float, ...]) -> tuple[Way, ...]:
    """An adapter whose batches are drawn from all depths, and one for each of them alone."""
    alone = (Way("lora", (n,), rates) for n in OFFERED.values())
    return (Way("lora", tuple(OFFERED.values()), rates), *alone)


ALL_SENTENCES = replace(SST2, scored=871)
"""SST-2 with its whole validation set, in which a point of accuracy is nine sentences."""
OF_TASK = {GSM8K: ways(LORA_RATES), ALL_SENTENCES: ways((2e-3, *LORA_RATES))}
STUDY = Study("depth", tuple(OF_TASK.items()), tuple(OFFERED.values()), "fp32")


def claims(rows: Sequence[Row]) -> list[Claim]:
    """The claims, for each task and depth, that the shared adapter scores as one of that depth alone."""
    result = []
    for text, (shared, *alone) in OF_TASK.items():
        for (name, n), way in zip(OFFERED.items(), alone, strict=True):
            ours, theirs = chosen(rows, STUDY, text, shared), chosen(rows, STUDY, text, way)
            if seeds := sorted(ours.keys() & theirs.keys()):
                result.append(_claim(text, name, [_price(ours[s], theirs[s], n) for s in seeds]))
    return result


def part(rows: Sequence[Row]) -> list[str]:
    """The table of scores by depth; nothing when there are no rows."""
    if not select(rows, kind=STUDY.kind):
        return []
    names = [f"N = {name}" for name in OFFERED]
    header = ("task", "trained at N", "learning rate", "seeds", *names)
    return [
        "Scores on a base of K = D that was trained as the presets are, at D/2, 3D/4 and D: accuracy of "
        f"{SST2.name}, perplexity of {GSM8K.name} per token, means over seeds.",
        table(header, [line for text in OF_TASK for line in _lines(rows, text)]),
    ]


def _lines(rows: Sequence[Row], text: Text) -> list[list[str]]:
    lines = []
    for way in OF_TASK[text]:
        if by_seed := chosen(rows, STUDY, text, way):
            runs = list(by_seed.values())
            scores = [_score([run["after"][str(n)] for run in runs]) for n in OFFERED.values()]
            names = ", ".join(name for name, n in OFFERED.items() if n in way.depths)
            lines.append([text.name, names, f"{runs[0]['learning_rate']:g}", str(len(runs)), *scores])
    return lines


def _score(metrics: Sequence[dict[str, float]]) -> str:
    if "accuracy" in metrics[0]:
        return f"{statistics.mean(metric['accuracy'] for metric in metrics):.1%}"
    return f"{math.exp(statistics.mean(metric['loss'] for metric in metrics)):.2f}"


def _price(shared: Row, alone: Row, depth: int) -> float:
    """How far the shared adapter is behind: in points of accuracy, or in percent of perplexity."""
    ours, theirs = (row["after"][str(depth)] for row in (shared, alone))
    if "accuracy" in ours:
        return 100 * float(theirs["accuracy"] - ours["accuracy"])
    return 100 * math.expm1(ours["loss"] - theirs["loss"])


def _claim(text: Text, name: str, prices: Sequence[float]) -> Claim:
    unit = "points of accuracy behind" if text == ALL_SENTENCES else "% more perplexity"
    mean, half = statistics.mean(prices), half_interval(prices)
    measured = f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]" if len(prices) > 1 else f"{mean:+.1f}"
    what = f"{text.name}: one adapter of all depths at N = {name} against one of that depth alone"
    return Claim(what, f"at most 1 {unit}", measured, len(prices), verdict(mean <= 1))
