"""The marked part of docs/adapters.md, and the claims of :mod:`benchmarks.adapters.compare`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.adapters import depths as by_depth
from benchmarks.adapters.gains import FULL, GAINS, GSM8K, LORA, SST2, WIDER, Text, Way, chosen
from benchmarks.bench import Claim, Row, claims_table, judged, measured_on, ratio_claim, select, table
from benchmarks.quality.claims import half_interval
from benchmarks.quality.rows import DEPTH

BARS = {"direct": "≤ 0.80", "checkpoint": "≤ 0.85"}
"""The bar of a step's time over that of full fine-tuning, by gradient method."""


def part(content: dict[str, Any]) -> str:
    """The claims, and the tables of steps, gains and sizes."""
    rows = content["rows"]
    parts = [
        f"Measured by `python -m benchmarks.adapters.compare`; {measured_on(content)}.",
        claims_table(claims(rows)),
    ]
    if steps := select(rows, kind="step"):
        parts += [
            "One optimizer step on 4 × 256 tokens, D = 8, K = 4, rank 8, one thread, alternating models; "
            "processor time, medians. Memory: weights, optimizer state, and the peak that a step adds.",
            table(
                ("width", "gradient", "adapter", "full", "`peft`", "adapter", "full", "`peft`"),
                map(step_line, steps),
            ),
        ]
    if gains := select(rows, kind="gain"):
        parts += [
            "Gains in nats per scored token, mean over seeds at the rate that was best for the first seed; "
            "the last line of each task is the untuned base's loss. Accuracy of SST-2 in brackets. "
            f"{GSM8K.name} is trained for {GSM8K.steps:,} steps, {SST2.name} for {SST2.steps:,}.",
            table(("task", "trained", "learning rate", "seeds", f"N = {DEPTH}"), gain_lines(gains)),
        ]
    parts += by_depth.part(rows)
    if sizes := select(rows, kind="size"):
        counts = ("formula", "counted", "model")
        lines = [[str(r["width"]), *(f"{r[key]:,}" for key in counts), f"{r['part']:.1%}"] for r in sizes]
        parts += [
            "Parameters of an adapter of rank 8, at every depth: rank · size · Σ (in + out) over its "
            "projections.",
            table(("width", "adapter", "counted", "model", "part"), lines),
        ]
    return "\n\n".join(parts)


def step_line(row: Row) -> list[str]:
    """Time and memory of the three models."""
    names = ("lora", "full", "peft")
    times = [f"{row['milliseconds']['processor'][name]:,.0f} ms" for name in names]
    memory = [f"{row['bytes'][name] / 2**20:,.0f} MiB" for name in names]
    return [str(row["width"]), f"`{row['gradient']}`", *times, *memory]


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Every claim that the rows say something of."""
    result = [claim for row in select(rows, kind="step") for claim in step_claims(row)]
    for text in (SST2, GSM8K):
        claim = f"{text.name}: gain of rank 8 against full fine-tuning's, at N = D"
        result += gain_claims(rows, claim, text, LORA, FULL)
    for wider in WIDER:
        claim = f"{GSM8K.name}: the same of rank {wider.adapter.rank} with the embedding among its targets"
        result += gain_claims(rows, claim, GSM8K, wider, FULL)
    ours, theirs = (chosen(rows, GAINS, SST2, way) for way in (LORA, FULL))
    if ours and theirs:
        # Most of a label's loss is its format and frequency, so the loss alone would flatter.
        result.append(accuracy_claim(list(ours.values()), list(theirs.values())))
    result += by_depth.claims(rows)
    if exports := select(rows, kind="export"):
        worst = max(row["difference"] for row in exports)
        depths = " and ".join(str(row["depth"]) for row in exports)
        claim = f"one adapter at N = {depths}, as `peft` loads it: logits, over their standard deviation"
        result.append(judged(claim, "≤ 1e-4", f"{worst:.0e}", worst <= 1e-4))
    for row in select(rows, kind="together"):
        jobs = f"{row['jobs']} jobs of {row['batch']} × {row['length']} tokens"
        what = f"{jobs} together against as many processes"
        faster = f"{what}: tokens per second of one core"
        result.append(ratio_claim(faster, row["processor_ratio"], "≥ 1.2"))
        result.append(ratio_claim(f"{what}: memory (PSS)", row["memory_ratio"], "≤ 0.4"))
    for row in select(rows, kind="size", width=768):
        good = row["part"] <= 0.03 and row["formula"] == row["counted"]
        claim = "trained part of all parameters at width 768"
        result.append(judged(claim, "≤ 3 %", f"{row['part']:.2%}", good))
    return result


def gain_claims(rows: Sequence[Row], claim: str, text: Text, way: Way, other: Way) -> list[Claim]:
    """The claim that one way has 95 % of another's gain, if both are in the rows."""
    ours, theirs = chosen(rows, GAINS, text, way), chosen(rows, GAINS, text, other)
    seeds = sorted(ours.keys() & theirs.keys())
    shares = [gain(ours[seed]) / gain(theirs[seed]) for seed in seeds]
    return [judged(claim, "≥ 95 %", interval(shares), statistics.mean(shares) >= 0.95)] if seeds else []


def accuracy_claim(ours: Sequence[Row], theirs: Sequence[Row]) -> Claim:
    """The claim that rank 8 has 95 % of full fine-tuning's gain in accuracy."""
    before, after, full = (
        statistics.mean(row[when][str(DEPTH)]["accuracy"] for row in rows)
        for rows, when in ((ours, "before"), (ours, "after"), (theirs, "after"))
    )
    measured = f"{after:.1%}, full {full:.1%}, untuned {before:.1%}"
    reached = after - before >= 0.95 * (full - before)
    return judged(f"{SST2.name}: the same of its accuracy", "≥ 95 %", measured, reached)


def step_claims(row: Row) -> list[Claim]:
    """Claims on time against both alternatives and on memory against peft."""
    what, time = f"width {row['width']}, `{row['gradient']}`", row["time_ratio"]["processor"]
    return [
        ratio_claim(f"{what}: a step against full fine-tuning", time["full"], BARS[row["gradient"]]),
        ratio_claim(f"{what}: a step against `peft`", time["peft"], "≤ 1.0"),
        ratio_claim(f"{what}: memory against `peft`", row["memory_ratio"]["peft"], "≤ 1.0"),
    ]


def gain(row: Row) -> float:
    """The gain in nats per token at N = D."""
    return float(row["before"][str(DEPTH)]["loss"] - row["after"][str(DEPTH)]["loss"])


def interval(values: Sequence[float]) -> str:
    """The mean and its 95 % interval, in percent."""
    mean, half = statistics.mean(values), half_interval(values)
    if len(values) < 2:
        return f"{mean:.1%} (one seed)"
    return f"{mean:.1%} [{mean - half:.1%}, {mean + half:.1%}]"


def gain_lines(rows: Sequence[Row]) -> list[list[str]]:
    """A line for each way, and one for the untuned base."""
    lines = []
    for text, ways in GAINS.runs:
        for way in ways:
            if not (by_seed := chosen(rows, GAINS, text, way)):
                continue
            seeds = list(by_seed.values())
            cell = f"{statistics.mean(map(gain, seeds)):.3f}{accuracy(seeds, 'after')}"
            lines.append([text.name, way.name, f"{seeds[0]['learning_rate']:g}", str(len(seeds)), cell])
        if first := select(rows, task=text.name)[:1]:
            before = f"{first[0]['before'][str(DEPTH)]['loss']:.3f}{accuracy(first, 'before')}"
            lines.append([text.name, "untuned: loss", "", "", before])
    return lines


def accuracy(rows: Iterable[Row], when: str) -> str:
    """The mean accuracy at N = D in brackets, if the task has one."""
    metrics = [row[when][str(DEPTH)] for row in rows]
    values = [metric["accuracy"] for metric in metrics if "accuracy" in metric]
    return f" ({statistics.mean(values):.1%})" if values else ""
