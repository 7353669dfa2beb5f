"""The adapter benchmark's results as Markdown: docs/adapters.md between its marks.

python -m benchmarks.adapters.tables benchmarks/results/adapters.json
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from scipy import stats

from benchmarks.adapters.gains import (
    DEPTHS,
    FIXED,
    FULL,
    GSM8K,
    LORA,
    RUNS,
    SST2,
    VARYING,
    WIDER,
    Text,
    Way,
    best_rate,
)
from benchmarks.quality_rows import DEPTH
from benchmarks.result_page import print_page

Row = dict[str, Any]
BARS = {"direct": 0.80, "checkpoint": 0.85}
"""A step's time over that of full fine-tuning."""


def part(content: dict[str, Any]) -> str:
    """What a results file says."""
    rows = content["rows"]
    dates = sorted({row["date"] for row in rows})
    pieces = [
        f"Measured by `python -m benchmarks.adapters`; machine: {content['machine']}; {', '.join(dates)}.",
        table(
            ("claim", "bar", "measured", ""),
            [
                (claim, bar, measured, "reached" if reached else "MISSED")
                for claim, bar, measured, reached in claims(rows)
            ],
        ),
    ]
    if steps := of_kind(rows, "step"):
        pieces += [
            "One optimizer step on 4 × 256 tokens, D = 8, K = 4, rank 8, one thread, models taking turns; "
            "processor time, medians. Memory: weights, the optimizer's state, and the most that a step adds.",
            table(
                ("width", "gradient", "adapter", "full", "`peft`", "adapter", "full", "`peft`"),
                [
                    (
                        str(row["width"]),
                        f"`{row['gradient']}`",
                        *(f"{row['milliseconds']['processor'][n]:,.0f} ms" for n in ("lora", "full", "peft")),
                        *(f"{row['bytes'][n] / 2**20:,.0f} MiB" for n in ("lora", "full", "peft")),
                    )
                    for row in steps
                ],
            ),
        ]
    if gains := of_kind(rows, "gain"):
        pieces += [
            "Gains in nats per token that counts, mean over seeds at the rate that was best for the first; "
            "the untuned base's loss in the last line of each task. Accuracy of SST-2 in brackets. "
            f"{GSM8K.name} is trained for {GSM8K.steps:,} steps, {SST2.name} for {SST2.steps:,}.",
            table(
                ("task", "trained", "learning rate", "seeds", *(f"N = {n}" for n in DEPTHS)),
                gain_lines(gains),
            ),
        ]
    if sizes := of_kind(rows, "size"):
        pieces += [
            "Parameters of an adapter of rank 8: rank · size · Σ (in + out) over its projections, "
            "whatever the depth.",
            table(
                ("width", "adapter", "counted", "model", "part"),
                [
                    (
                        str(row["width"]),
                        f"{row['formula']:,}",
                        f"{row['counted']:,}",
                        f"{row['model']:,}",
                        f"{row['part']:.1%}",
                    )
                    for row in sizes
                ],
            ),
        ]
    return "\n\n".join(pieces)


def claims(rows: Sequence[Row]) -> list[tuple[str, str, str, bool]]:
    """(claim, bar, measured, reached)."""
    found = [claim for row in of_kind(rows, "step") for claim in step_claims(row)]
    for text in (SST2, GSM8K):
        if share := shares(rows, text, LORA, FULL, DEPTH):
            claim = f"{text.name}: gain of rank 8 against full fine-tuning's, at N = D"
            found.append((claim, "≥ 95 %", interval(share), statistics.mean(share) >= 0.95))
    for wider in WIDER:
        if share := shares(rows, GSM8K, wider, FULL, DEPTH):
            claim = (
                f"{GSM8K.name}: the same of rank {wider.adapter.rank} with the embedding among its targets"
            )
            found.append((claim, "≥ 95 %", interval(share), statistics.mean(share) >= 0.95))
    ours, theirs = (chosen(rows, SST2, way) for way in (LORA, FULL))
    if ours and theirs:
        # Most of a label's loss is its format and frequency: the loss alone would flatter.
        found.append(accuracy_claim(list(ours.values()), list(theirs.values())))
    for depth in DEPTHS:
        if share := shares(rows, GSM8K, VARYING, FIXED[depth], depth):
            claim = f"{GSM8K.name}: an adapter of varying depth at N = {depth} against one of that depth"
            found.append((claim, "≥ 95 %", interval(share), statistics.mean(share) >= 0.95))
    exports = of_kind(rows, "export")
    if exports:
        worst = max(row["difference"] for row in exports)
        depths = " and ".join(str(row["depth"]) for row in exports)
        claim = f"one adapter at N = {depths}, as `peft` loads it: logits, over their standard deviation"
        found.append((claim, "≤ 1e-4", f"{worst:.0e}", worst <= 1e-4))
    for row in of_kind(rows, "together"):
        shape = f"{row['jobs']} jobs of {row['batch']} × {row['length']} tokens"
        what = f"{shape} together against as many processes"
        faster, memory = row["processor_ratio"], row["memory_ratio"]
        found.append((f"{what}: tokens per second of one core", "≥ 1.2 ×", f"{faster:.2f} ×", faster >= 1.2))
        found.append((f"{what}: memory (PSS)", "≤ 0.4 ×", f"{memory:.2f} ×", memory <= 0.4))
    for row in of_kind(rows, "size"):
        if row["width"] == 768:
            good = row["part"] <= 0.03 and row["formula"] == row["counted"]
            found.append(("trained part of all parameters at width 768", "≤ 3 %", f"{row['part']:.2%}", good))
    return found


def accuracy_claim(ours: Sequence[Row], theirs: Sequence[Row]) -> tuple[str, str, str, bool]:
    """The same share of the gain in accuracy."""
    before, after, full = (
        statistics.mean(row[when][str(DEPTH)]["accuracy"] for row in of)
        for of, when in ((ours, "before"), (ours, "after"), (theirs, "after"))
    )
    measured = f"{after:.1%}, full {full:.1%}, untuned {before:.1%}"
    reached = after - before >= 0.95 * (full - before)
    return f"{SST2.name}: the same of its accuracy", "≥ 95 %", measured, reached


def step_claims(row: Row) -> list[tuple[str, str, str, bool]]:
    """Time against both peers, and memory against peft."""
    at, gradient = f"width {row['width']}, `{row['gradient']}`", row["gradient"]
    time, memory = row["time_ratio"]["processor"], row["memory_ratio"]["peft"]
    bar = BARS[gradient]
    return [
        (
            f"{at}: a step against full fine-tuning",
            f"≤ {bar:.2f} ×",
            f"{time['full']:.2f} ×",
            time["full"] <= bar,
        ),
        (f"{at}: a step against `peft`", "≤ 1.0 ×", f"{time['peft']:.2f} ×", time["peft"] <= 1.0),
        (f"{at}: memory against `peft`", "≤ 1.0 ×", f"{memory:.2f} ×", memory <= 1.0),
    ]


def shares(rows: Sequence[Row], text: Text, of: Way, against: Way, depth: int) -> list[float]:
    """By seed, the part of one way's gain that another has, at the rates that are theirs."""
    ours, theirs = chosen(rows, text, of), chosen(rows, text, against)
    return [
        gain(ours[seed], depth) / gain(theirs[seed], depth) for seed in sorted(ours.keys() & theirs.keys())
    ]


def chosen(rows: Sequence[Row], text: Text, way: Way) -> dict[int, Row]:
    """By seed, the rows of a way at the rate that was best for the first seed."""
    mine = [r for r in of_kind(rows, "gain") if (r["task"], r["way"]) == (text.name, way.name)]
    if not any(row["seed"] == 0 for row in mine):
        return {}
    rate = best_rate(mine, text, way)
    return {row["seed"]: row for row in mine if row["learning_rate"] == rate}


def gain(row: Row, depth: int) -> float:
    """In nats per token."""
    return float(row["before"][str(depth)]["loss"] - row["after"][str(depth)]["loss"])


def interval(values: Sequence[float]) -> str:
    """The mean and its 95 % interval, in percent."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.1%} (one seed)"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.1%} [{mean - half:.1%}, {mean + half:.1%}]"


def gain_lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """A line for each way, and one for the untuned base."""
    lines = []
    for text, ways in RUNS:
        for way in ways:
            if mine := chosen(rows, text, way):
                first = next(iter(mine.values()))
                gains = {n: statistics.mean(gain(row, n) for row in mine.values()) for n in DEPTHS}
                cells = [f"{gains[n]:.3f}{accuracy(mine.values(), 'after', n)}" for n in DEPTHS]
                lines.append((text.name, way.name, f"{first['learning_rate']:g}", str(len(mine)), *cells))
        first_row = next((row for row in rows if row["task"] == text.name), None)
        if first_row:
            cells = [
                f"{first_row['before'][str(n)]['loss']:.3f}{accuracy([first_row], 'before', n)}"
                for n in DEPTHS
            ]
            lines.append((text.name, "untuned: loss", "", "", *cells))
    return lines


def accuracy(rows: Iterable[Row], when: str, depth: int) -> str:
    """In brackets, where there is one."""
    found = [row[when][str(depth)]["accuracy"] for row in rows if "accuracy" in row[when][str(depth)]]
    return f" ({statistics.mean(found):.1%})" if found else ""


def of_kind(rows: Iterable[Row], kind: str) -> list[Row]:
    """The rows of one part."""
    return [row for row in rows if row["kind"] == kind]


def table(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """As Markdown."""
    return "\n".join(
        [
            "| " + " | ".join(titles) + " |",
            "|---" * len(titles) + "|",
            *("| " + " | ".join(line) + " |" for line in lines),
        ]
    )


if __name__ == "__main__":
    print_page(__doc__, part)
