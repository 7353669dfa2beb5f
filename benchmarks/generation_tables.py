"""The generation benchmark's results as Markdown: docs/generation.md.

python -m benchmarks.generation_tables benchmarks/results/generation.json > docs/generation.md
"""

from __future__ import annotations

from typing import Any

from benchmarks.result_page import print_page

BARS = {256: 1.3, 768: 1.0}
"""Tokens per second over those of ``transformers``, by width."""
SPECULATIVE_BAR = 1.2


def page(content: dict[str, Any]) -> str:
    """Everything a results file says."""
    parts = [
        "# Writing: tokens per second",
        "What `python -m benchmarks.generation` measured; this page is printed by "
        "`python -m benchmarks.generation_tables benchmarks/results/generation.json`. "
        f"Machine: {content['machine']}; {content['date']}.",
        "Greedy, fp32, 32 tokens of prompt; `transformers` runs `generate` on the exported checkpoint, in "
        "turn with ours in one process. Bandwidth: what reading every weight once a token would allow.",
        rates_table(content["rows"]),
    ]
    if content["speculative"]:
        parts += ["## A shallow draft of the same checkpoint", speculation(content["speculative"])]
    return "\n\n".join(parts)


def rates_table(rows: list[dict[str, Any]]) -> str:
    """A line for each shape and batch."""
    lines = [
        "| width | layers | batch | new tokens | ours | transformers | bandwidth | ratio | bar | |",
        "|---" * 10 + "|",
    ]
    for row in rows:
        bar = BARS[row["width"]]
        lines.append(
            f"| {row['width']} | {row['depth']} | {row['batch']} | {row['new_tokens']} | "
            f"{row['tokens_per_second']:.0f}/s | {row['transformers_tokens_per_second']:.0f}/s | "
            f"{row['bandwidth_tokens_per_second']:.0f}/s | {row['ratio']:.2f} × | ≥ {bar} × | "
            f"{'reached' if row['ratio'] >= bar else 'MISSED'} |"
        )
    return "\n".join(lines)


def speculation(found: dict[str, Any]) -> str:
    """What guessing ahead gained."""
    verdict = "reached" if found["ratio"] >= SPECULATIVE_BAR else "MISSED"
    return (
        f"Width {found['width']}, D = {found['depth']}, trained; N = {found['shallow']} guesses "
        f"{found['ahead']} tokens ahead, N = {found['deep']} checks. Of the guesses "
        f"{100 * found['acceptance']:.0f} % stayed; {found['tokens_per_second']:.0f} tokens/s against "
        f"{found['plain_tokens_per_second']:.0f} without, {found['ratio']:.2f} × (bar ≥ {SPECULATIVE_BAR} ×: "
        f"{verdict}); {found['same_texts']} of {found['prompts']} greedy texts the same."
    )


if __name__ == "__main__":
    print_page(__doc__, page)
