"""What the analysis costs as Markdown: docs/analysis.md between its marks.

python -m benchmarks.analysis_tables benchmarks/results/analysis.json
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.result_page import print_page


def part(content: dict[str, Any]) -> str:
    """What a results file says."""
    lines = [
        "| claim | bar | measured | |",
        "|---|---|---|---|",
        *(
            f"| {claim} | {bar} | {measured} | {'reached' if reached else 'MISSED'} |"
            for claim, bar, measured, reached in claims(content)
        ),
    ]
    return (
        "`python -m benchmarks.analysis --json benchmarks/results/analysis.json`; machine: "
        f"{content['machine']}; {content['date']}.\n\n" + "\n".join(lines)
    )


def claims(content: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """(claim, bar, measured, reached)."""
    report, spectrum, memory = content["report"], content["spectrum"], content["memory"]
    seconds = statistics.median(report["seconds"])
    shape = f"head width {spectrum['head_width']} at width {spectrum['width']}"
    found = [
        (
            f"`odeformer analyze`, {report['tokens']} tokens, preset `tiny`, the whole command",
            "≤ 60 s on 2 cores",
            f"{seconds:.0f} s (median of {len(report['seconds'])}, {min(report['seconds']):.0f} to "
            f"{max(report['seconds']):.0f})",
            seconds <= 60,
        ),
        (
            f"spectrum of a product of thin matrices against full `eigvals`, {shape}: speed",
            "≥ 20 ×",
            f"{spectrum['ratio']:.0f} ×",
            spectrum["ratio"] >= 20,
        ),
        (
            "the same: eigenvalues, relative",
            "≤ 1e-5",
            f"{spectrum['relative_error']:.0e}",
            spectrum["relative_error"] <= 1e-5,
        ),
    ]
    peaks = {int(count): peak for count, peak in memory["exponents"].items()}
    least, most = min(peaks), max(peaks)
    each = (peaks[most] - peaks[least]) / (most - least) / memory["state"]
    beyond, report = (
        (peak - memory["forward"]) / memory["state"] for peak in (peaks[most], memory["forth_and_back"])
    )
    bar = f"≤ {most} states, to 0.5 %"
    found += [
        ("memory of exponents: each one more", "≤ 1 state", f"{each:.2f} states", each <= 1.005),
        (
            f"memory of {most} exponents beyond one forward pass, carried along once",
            bar,
            f"{beyond:.1f} states",
            beyond <= 1.005 * most,
        ),
        (
            "the same as the report finds them: forth and back, with 4 directions to spare",
            bar,
            f"{report:.1f} states",
            report <= 1.005 * most,
        ),
    ]
    return found


if __name__ == "__main__":
    print_page(__doc__, part)
