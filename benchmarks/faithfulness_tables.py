"""The faithfulness benchmark's results as Markdown: docs/analysis.md between its marks.

python -m benchmarks.faithfulness_tables benchmarks/results/faithfulness.json
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.result_page import print_page
from odeformer.analysis.statistics import Interval, bootstrap

Row = dict[str, Any]
REFERENCE = "published surrogate"
BETTER = {"deletion": -1, "insertion": 1, "correlation": 1}
"""Whether less or more is better."""


def part(content: dict[str, Any]) -> str:
    """What a results file says."""
    rows, judgement = content["rows"], content["judgement"]
    dates = sorted({row["date"] for row in rows})
    return "\n\n".join(
        [
            f"{content['prompts']} held-out prompts of {content['prompt_tokens']} tokens, "
            "`python -m benchmarks.faithfulness --json benchmarks/results/faithfulness.json`; "
            f"machine: {content['machine']}; {', '.join(dates)}. Means and 95 % bootstrap intervals; "
            f"in the last two columns the paired difference from the {REFERENCE}.",
            _table(judgement),
            verdict(judgement),
        ]
    )


def judged(rows: Sequence[Row]) -> dict[str, Any]:
    """Intervals of every method's figures, and of their paired differences from the published surrogate."""
    values = {row["method"]: {name: torch.tensor(row[name]) for name in BETTER} for row in rows}
    reference = values[REFERENCE]
    methods = {
        method: {
            name: {
                "interval": bootstrap(of[name]),
                "against_surrogate": bootstrap(of[name] - reference[name]),
            }
            for name in BETTER
        }
        for method, of in values.items()
    }
    best = {name: _best(values, name) for name in BETTER}
    # The best against every other one on the same prompts: is it ahead, or only lucky?
    ahead = {
        name: [
            method
            for method in values
            if method != best[name]
            and bootstrap(BETTER[name] * (values[best[name]][name] - values[method][name])).low > 0
        ]
        for name in BETTER
    }
    return {"judgement": {"methods": methods, "best": best, "ahead_of": ahead}}


def _best(values: dict[str, dict[str, torch.Tensor]], name: str) -> str:
    return max(values, key=lambda method: BETTER[name] * float(values[method][name].mean()))


def verdict(judgement: dict[str, Any]) -> str:
    """Which method wins which figure, and whether its interval is clear of the published surrogate's."""
    lines = []
    others = len(judgement["methods"]) - 1
    for name, method in judgement["best"].items():
        ahead = judgement["ahead_of"][name]
        rest = [m for m in judgement["methods"] if m not in ahead and m != method]
        clear = (
            "all others" if len(ahead) == others else f"all but {', '.join(rest)}" if ahead else "none surely"
        )
        mine, theirs = (Interval(*judgement["methods"][m][name]["interval"]) for m in (method, REFERENCE))
        apart = "overlap" if mine.overlaps(theirs) else "do not overlap"
        lines.append(
            f"- **{name}**: {method}; ahead of {clear} (paired, 95 %); its interval and the "
            f"{REFERENCE}'s {apart}."
        )
    return "\n".join(lines)


def _table(judgement: dict[str, Any]) -> str:
    head = (
        "method",
        "deletion, nats (lower)",
        "insertion, nats (higher)",
        "rank correlation (higher)",
        "deletion − surrogate's",
        "insertion − surrogate's",
    )
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for method, of in judgement["methods"].items():
        cells = [
            *(_shown(of[name]["interval"]) for name in BETTER),
            *(
                "–" if method == REFERENCE else _shown(of[name]["against_surrogate"])
                for name in ("deletion", "insertion")
            ),
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(interval: Sequence[float]) -> str:
    mean, low, high = interval
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


if __name__ == "__main__":
    print_page(__doc__, part)
