"""Published runs and what the planner says of them, as the tables in docs/planning.md.

python -m benchmarks.simulation_tables benchmarks/results/simulation.json    # what stands between the marks
"""

from __future__ import annotations

from typing import Any

from benchmarks.result_page import print_page


def tables(content: dict[str, Any]) -> str:
    """A line for each long run and assumption; a line for each published speed."""
    runs = [row for row in content["rows"] if row["kind"] == "run"]
    steps = [row for row in content["rows"] if row["kind"] == "step"]
    off = [_off(row) for row in sorted(steps, key=_off_by)]
    lines = [
        "`python -m benchmarks.simulation`: nothing of it is measured here. Of long runs failures, commits "
        "and the store are as `plan --simulate` has them (4 GB for each GPU, the most that Llama 3 names), "
        "and a restart takes this planner's five minutes, or 25: MegaScale names less than 10 until the "
        "fault is found, and 15 until the run is where it was.",
        "",
        "| run | published: time | interruptions | training | restart, min | simulated: interruptions "
        "| training [5 %, 95 %] | made again | restarting |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_run(row) for row in runs),
        "",
        "Llama 3's interruptions are no check, as the rate of failures is theirs; MegaScale's are (several "
        "weeks taken as 28 days). The parts of the time that were published, two of them as bounds, lie "
        "between the two restarts, ByteRobust's (machines kept warm, checkpoints in memory) near the short "
        "one: how long a restart takes decides, so measure yours. Slow nodes and missing spares are left "
        "out here.",
        "",
        "Speed, Llama 3.1 8B on H100 (torchtitan, `benchmarks/llama3_h100_202412_torchtitan.md`, tables 1 "
        f"and 3; {steps[0]['parameters']:,} parameters, as the published checkpoint has): how fast 8 GPUs "
        "are sets the efficiency of products, and the α–β model says what 128 make of it.",
        "",
        "| FSDP | published: tokens/s of a GPU, 8 | 128 | kept | efficiency | planned: 128 | kept | off "
        "| of a step is communication |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_step(row) for row in steps),
        "",
        f"The planner is {off[0]} to {off[-1]} off: it gathers float32 and overlaps nothing, they gather "
        "bfloat16 behind the computing. Their MFU on 8 GPUs, "
        + " and ".join(f"{row['mfu_said']:.0%}" for row in steps)
        + ", is ours of the same speed when attention's whole square is counted, as they do ("
        + ", ".join(f"{row['mfu_whole_square']:.1%}" for row in steps)
        + "); the half of it that causal attention needs gives "
        + " and ".join(f"{row['mfu']:.1%}" for row in steps)
        + ".",
    ]
    return "\n".join(lines)


def _run(row: dict[str, Any]) -> str:
    training = row["training"]
    cells = (
        f"{row['run']}, {row['gpus']:,} GPUs ({row['source']})",
        row["days_said"] + (" days" if row["days_said"].isdigit() else ""),
        row["interruptions_said"] or "–",
        row["training_said"],
        f"{row['restart_minutes']:.0f}",
        f"{row['interruptions']:.0f}" + (f", and {row['planned']} planned" if row["planned"] else ""),
        f"{training['median']:.1%} [{training['low']:.1%}, {training['high']:.1%}]",
        f"{row['again']:.1%}",
        f"{row['stopped']:.1%}",
    )
    return f"| {' | '.join(cells)} |"


def _step(row: dict[str, Any]) -> str:
    cells = (
        row["run"],
        f"{row['few']:,}",
        f"{row['many']:,}",
        f"{row['many'] / row['few']:.1%}",
        f"{row['efficiency']:.1%}",
        f"{row['many_found']:,.0f}",
        f"{row['many_found'] / row['few_found']:.1%}",
        _off(row),
        f"{row['communication']:.1%}",
    )
    return f"| {' | '.join(cells)} |"


def _off_by(row: dict[str, Any]) -> float:
    return float(row["many_found"] / row["many"] - 1)


def _off(row: dict[str, Any]) -> str:
    return f"{_off_by(row):+.1%}"


if __name__ == "__main__":
    print_page(__doc__, tables)
