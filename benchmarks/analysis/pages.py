"""Two marked parts of docs/analysis.md: the faithfulness of attributions, and the cost of an analysis."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.bench import Claim, Row, claims_table, judged, measured_on, table
from odeformer.analysis.statistics import Interval, bootstrap

REFERENCE = "published surrogate"
BETTER = {"deletion": -1, "insertion": 1, "correlation": 1}
"""The sign of each figure: whether less or more is better."""
HEAD = (
    "method | deletion, nats (lower) | insertion, nats (higher) | rank correlation (higher) | "
    "deletion − surrogate's | insertion − surrogate's"
)


def faithfulness(content: dict[str, Any]) -> str:
    """The table of all methods and the conclusion."""
    judgement = content["judgement"]
    return "\n\n".join(
        [
            f"{content['prompts']} held-out prompts of {content['prompt_tokens']} tokens, "
            "`python -m benchmarks.analysis.faithfulness --json benchmarks/results/faithfulness.json`; "
            f"{measured_on(content)}. Means and 95 % bootstrap intervals; in the last two columns the paired "
            f"difference from the {REFERENCE}.",
            _table(judgement),
            verdict(judgement),
        ]
    )


def judge(rows: Sequence[Row]) -> dict[str, Any]:
    """Intervals of every method's figures and of their paired differences from the published surrogate."""
    values = {row["method"]: {name: torch.tensor(row[name]) for name in BETTER} for row in rows}
    reference = values[REFERENCE]
    methods: dict[str, dict[str, Any]] = {}
    for method, figures in values.items():
        methods[method] = {
            name: {"interval": bootstrap(figure), "against_surrogate": bootstrap(figure - reference[name])}
            for name, figure in figures.items()
        }
    best, ahead_of = {}, {}
    for name, sign in BETTER.items():
        best[name] = max(values, key=lambda method: sign * float(values[method][name].mean()))
        winner = values[best[name]][name]
        # Paired differences on the same prompts tell whether the best one is ahead or only lucky.
        others = [method for method in values if method != best[name]]
        ahead_of[name] = [m for m in others if bootstrap(sign * (winner - values[m][name])).low > 0]
    return {"methods": methods, "best": best, "ahead_of": ahead_of}


def verdict(judgement: dict[str, Any]) -> str:
    """The method that wins each figure, and whether its interval is clear of the published surrogate's."""
    methods, lines = judgement["methods"], []
    for name, method in judgement["best"].items():
        ahead = judgement["ahead_of"][name]
        rest = [other for other in methods if other not in ahead and other != method]
        clear = f"all but {', '.join(rest)}" if rest else "all others"
        ours, theirs = (Interval(*methods[m][name]["interval"]) for m in (method, REFERENCE))
        overlap = ours.low <= theirs.high and theirs.low <= ours.high
        apart = "overlap" if overlap else "do not overlap"
        lines.append(
            f"- **{name}**: {method}; ahead of {clear if ahead else 'none surely'} (paired, 95 %); its "
            f"interval and the {REFERENCE}'s {apart}."
        )
    return "\n".join(lines)


def _table(judgement: dict[str, Any]) -> str:
    lines = []
    for method, figures in judgement["methods"].items():
        cells = [_shown(figures[name]["interval"]) for name in BETTER]
        for name in ("deletion", "insertion"):
            cells.append("–" if method == REFERENCE else _shown(figures[name]["against_surrogate"]))
        lines.append([method, *cells])
    return table(HEAD, lines)


def _shown(interval: Sequence[float]) -> str:
    mean, low, high = interval
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def cost(content: dict[str, Any]) -> str:
    """The claims on time and memory of an analysis."""
    return (
        "`python -m benchmarks.analysis.cost --json benchmarks/results/analysis.json`; "
        f"{measured_on(content)}.\n\n" + claims_table(cost_claims(content))
    )


def cost_claims(content: dict[str, Any]) -> list[Claim]:
    """Every claim with what was measured."""
    report, spectrum, memory = content["report"], content["spectrum"], content["memory"]
    seconds = statistics.median(report["seconds"])
    peaks = {int(count): peak for count, peak in memory["exponents"].items()}
    least, most = min(peaks), max(peaks)
    each = (peaks[most] - peaks[least]) / (most - least) / memory["state"]
    carried, both_ways = (
        (peak - memory["forward"]) / memory["state"] for peak in (peaks[most], memory["forth_and_back"])
    )
    states_bar = f"≤ {most} states, to 0.5 %"
    return [
        judged(
            f"`odeformer analyze`, {report['tokens']} tokens, preset `tiny`, the whole command",
            "≤ 60 s on 2 cores",
            f"{seconds:.0f} s (median of {len(report['seconds'])}, {min(report['seconds']):.0f} to "
            f"{max(report['seconds']):.0f})",
            seconds <= 60,
        ),
        judged(
            "spectrum of a product of thin matrices against full `eigvals`, "
            f"head width {spectrum['head_width']} at width {spectrum['width']}: speed",
            "≥ 20 ×",
            f"{spectrum['ratio']:.0f} ×",
            spectrum["ratio"] >= 20,
        ),
        judged(
            "the same: eigenvalues, relative error",
            "≤ 1e-5",
            f"{spectrum['relative_error']:.0e}",
            spectrum["relative_error"] <= 1e-5,
        ),
        judged("memory of each further exponent", "≤ 1 state", f"{each:.2f} states", each <= 1.005),
        judged(
            f"memory of {most} exponents beyond one forward pass, one pass forward",
            states_bar,
            f"{carried:.1f} states",
            carried <= 1.005 * most,
        ),
        judged(
            "the same as in the report: forward and backward passes, with 4 further directions",
            states_bar,
            f"{both_ways:.1f} states",
            both_ways <= 1.005 * most,
        ),
    ]
