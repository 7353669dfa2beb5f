"""The traffic benchmark's results as the table in docs/zero.md.

python -m benchmarks.traffic_tables benchmarks/results/traffic.json    # what stands between the marks
"""

from __future__ import annotations

from typing import Any

from benchmarks.result_page import print_page


def table(content: dict[str, Any]) -> str:
    """A line for each stage: megabytes a step of each model, and the share of the depth weights."""
    rows = {(row["stage"], row["model"]): row for row in content["rows"]}
    names = list(dict.fromkeys(row["model"] for row in content["rows"]))
    lines = [
        f"`python -m benchmarks.traffic` ({content['machine']}; {content['date']}): two gloo workers, width "
        "128, D = 8, MB between them for each optimizer step, and in brackets bytes for each stored "
        "parameter.",
        "",
        f"| stage | {' | '.join(names)} | depth weights, K = D/2 over ordinary |",
        "|---|" + "---|" * (len(names) + 1),
    ]
    for stage in sorted({row["stage"] for row in content["rows"]}):
        cells = [
            f"{row['bytes'] / 1e6:.2f} ({row['bytes'] / row['parameters']:.2f})"
            for row in (rows[stage, name] for name in names)
        ]
        half, whole = (of_depth_weights(rows[stage, name]) for name in ("K = D/2", "ordinary"))
        lines.append(f"| {stage} | {' | '.join(cells)} | {half / whole:.3f} |")
    return "\n".join(lines)


def of_depth_weights(row: dict[str, Any]) -> float:
    """Bytes a step of the weights that depend on depth: their share, as bytes follow parameters."""
    return float(row["bytes"]) * float(row["depth_parameters"]) / float(row["parameters"])


if __name__ == "__main__":
    print_page(__doc__, table)
