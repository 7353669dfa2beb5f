"""The checkpointing benchmark's results as the table in docs/checkpoints.md.

python -m benchmarks.checkpointing_tables benchmarks/results/checkpointing.json
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.result_page import print_page

NAMES = {
    "ours": "a commit",
    "torch.save": "`torch.save`, flushed",
    "async_save": "`torch.distributed.checkpoint.async_save`",
}
BAR = 0.10
"""Of a synchronous save, at most, training may wait."""


def table(content: dict[str, Any]) -> str:
    """A line for each way to save."""
    ratio = content["blocked_ratio"]["ours"]
    lines = [
        f"`python -m benchmarks.checkpointing` ({content['machine']}; {content['date']}): preset `small` "
        f"({content['parameters'] / 1e6:.0f} M parameters), one worker, {content['bytes'] / 1e9:.2f} GB of "
        f"state, in turn, medians of {len(content['rounds']['ours'])} rounds; in brackets the round before "
        "them, which takes the memory. Passes: forward and backward of the step after the save, on the same "
        "cores as what goes on in the background.",
        "",
        "| | training waits, s | over `torch.save` | passes, s | over `torch.save` | durable after, s "
        "| over `torch.save` |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, words in NAMES.items():
        seconds, first = content["seconds"][name], content["first"][name]
        lines.append(
            f"| {words} | {seconds['blocked']:.3f} ({first['blocked']:.3f}) "
            f"| {content['blocked_ratio'][name]:.3f} | {seconds['passes']:.2f} "
            f"| {content['passes_ratio'][name]:.2f} | {seconds['durable']:.2f} ({first['durable']:.2f}) "
            f"| {content['durable_ratio'][name]:.2f} |"
        )
    ours = content["rounds"]["ours"]
    of_itself = statistics.median(row["blocked"] / row["durable"] for row in ours)
    verdict = "met" if ratio <= BAR else "missed"
    bar = (
        f"Training may wait for {BAR:.2f} of a synchronous save: against `torch.save`, which takes no "
        f"digests, {verdict} with {ratio:.3f}; against the commit itself, had training waited for all of it, "
        f"{of_itself:.3f}."
    )
    return "\n".join([*lines, "", bar])


if __name__ == "__main__":
    print_page(__doc__, table)
