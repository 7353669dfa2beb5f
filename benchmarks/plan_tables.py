"""The planner's results as the tables in docs/planning.md.

python -m benchmarks.plan_tables benchmarks/results/plan.json    # what stands between the marks
"""

from __future__ import annotations

from typing import Any

from benchmarks.result_page import print_page

BARS = {"memory": 0.10, "bytes": 0.02}


def tables(content: dict[str, Any]) -> str:
    """A line for each run: what was said, what was found."""
    rows = content["rows"]
    lines = [
        f"`python -m benchmarks.plan` ({content['machine']}; {max(row['date'] for row in rows)}): DeepSpeed "
        "workers with a gloo group, width 128, D = 8, sequences of 128 tokens, vocabulary 2,048.",
        "",
    ]
    for kind, what in (("memory", "memory of a worker, two workers"), ("bytes", "bytes in a step")):
        chosen = [row for row in rows if row["kind"] == kind]
        worst = max(abs(off(row)) for row in chosen)
        verdict = "reached" if worst <= BARS[kind] else "MISSED"
        lines += [
            f"**{what[0].upper()}{what[1:]}**: {len(chosen)} runs, at most {worst:.1%} off (bar: within "
            f"{BARS[kind]:.0%} each): {verdict}.",
            "",
            "| run | said, MB | found, MB | off |",
            "|---|---|---|---|",
            *(
                f"| {shape(row)} | {row['said'] / 1e6:.2f} | {row['found'] / 1e6:.2f} | {off(row):+.1%} |"
                for row in chosen
            ),
            "",
        ]
    return "\n".join(lines).rstrip()


def off(row: dict[str, Any]) -> float:
    """How far what was said is from what was found."""
    return float(row["said"]) / float(row["found"]) - 1


def shape(row: dict[str, Any]) -> str:
    """What sets a row apart."""
    words = [f"stage {row['stage']}"]
    if row["kind"] == "memory":
        words += [f"`{row['gradient']}`", f"K = {row['sets']}", f"micro-batch {row['batch']}"]
        words += [f"{row['passes']} passes"] if "passes" in row else []
        words += [row["precision"]] if "precision" in row else []
    else:
        words += [f"{row['workers']} workers", f"{row['passes']} passes"]
        words += [f"tensors below {row['threshold']:,} whole"] if row["threshold"] else []
    return ", ".join(words)


if __name__ == "__main__":
    print_page(__doc__, tables)
