"""The results of the small formats as Markdown: docs/small_devices.md.

python -m benchmarks.small_formats_tables benchmarks/results/small_formats.json > docs/small_devices.md
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.result_page import print_page

HOW = (
    "# Small devices: GGUF and int8",
    """```bash
odeformer models export --model models:/book@champion --depth 4 --gguf q8_0 --out book-4.gguf
llama-cli -m book-4.gguf -p "It was"          # llama.cpp, or anything built on it
odeformer generate --model models:/book@champion --depth 4 --int8 "It was"
```""",
    "**GGUF.** Any depth of a `llama` or `neox` model is a file for llama.cpp, with its tokenizer, in "
    "`f32`, `f16` or `q8_0` (blocks of 32 whole numbers with one scale; a matrix whose rows are no "
    "whole number of blocks is `f16`). It needs `pip install -e '.[gguf]'`. Before the file is "
    "in its place, others load it – `transformers` a `llama`, the package `gguf` a `gptneox` –, and "
    "its logits are compared with those of the rounded weights; a difference beyond rounding is an "
    "error and leaves no file. Adapters are merged (`--adapter`). Refused are the flavour `paper`, a "
    "`llama` that rotates a part of its heads, and tokenizers that split text otherwise than GPT-2's "
    "byte-level one, which is what `data build` trains. llama.cpp has no tied head for `gptneox`: "
    "there the embedding is stored twice. Its GELU is the approximation by tanh, ours, as GPT-NeoX's, "
    "is exact.",
    "**int8.** `--int8` keeps every matrix as 8-bit whole numbers with a scale for each row, and "
    "rounds what it is multiplied by in the same way, each token's vector by a scale of its own: a "
    "token does not depend on what is beside it. The checkpoint is read in fp32 first; what is small "
    "is what stays in memory. It is for a CPU that has instructions for it (AVX-512 VNNI was "
    "measured). No file format goes with it: for a small file take GGUF.",
)


def page(content: dict[str, Any]) -> str:
    """Everything a results file says."""
    return "\n\n".join(
        [
            *HOW,
            "## What it costs",
            "What `python -m benchmarks.small_formats` measured; this page is printed by `python -m "
            "benchmarks.small_formats_tables benchmarks/results/small_formats.json`. Machine: "
            f"{content['machine']}; {content['llamacpp']}; {content['date']}.",
            f"Loss in nats per token on {content['tokens']:,} tokens of the standard library's "
            "held-out files, of models of width 128, D = 8, trained on the rest of it for 500 steps "
            "at 8 cells, towards the end at 4 or 8 (preset `tiny`). Difference: to fp32. Logits: the "
            "largest difference of one, over their standard deviation. Bytes: of the weights in "
            "memory, or of the file. A GGUF file's loss is that of its weights with all other "
            "arithmetic in fp32; “in llama.cpp” is llama.cpp's own, which also rounds what `q8_0` "
            "matrices are multiplied by, and keeps keys and values in half precision.",
            *(losses_table(rows) for rows in by_flavour(content["losses"])),
            "## Speed",
            "Greedy, one row, one thread, 32 tokens of prompt, in turn in one process; untrained `neox` "
            "models at N = D. Ratio: of tokens per second to fp32, the median of the rounds. Other work "
            f"shared the cores (a load of {content['load']:.1f}), which the ratios feel less than the rates.",
            speeds_table(content["speeds"]),
        ]
    )


def by_flavour(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows of each flavour, in the order in which they were measured."""
    flavours = dict.fromkeys(row["flavour"] for row in rows)
    return [[row for row in rows if row["flavour"] == flavour] for flavour in flavours]


def losses_table(rows: Sequence[dict[str, Any]]) -> str:
    """Of one flavour: a line for each format, a column for each depth."""
    depths = sorted({row["depth"] for row in rows})
    lines = [
        f"| `{rows[0]['flavour']}` | KiB, N = {depths[0]} | "
        + " | ".join(f"loss, N = {depth} | difference | logits" for depth in depths)
        + " |",
        "|---" * (2 + 3 * len(depths)) + "|",
    ]
    for name in dict.fromkeys(row["format"] for row in rows):
        of_depth = {row["depth"]: row for row in rows if row["format"] == name}
        cells = [
            f"{of_depth[depth]['loss']:.4f} | {of_depth[depth]['loss_difference']:+.5f} | "
            f"{of_depth[depth]['logits_difference']:.1e}"
            for depth in depths
        ]
        size = of_depth[depths[0]]["bytes"] / 1024
        lines.append(f"| {name} | {size:,.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speeds_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each width and format."""
    lines = ["| width | layers | format | MiB | tokens/s | ratio |", "|---" * 6 + "|"]
    for row in rows:
        lines.append(
            f"| {row['width']} | {row['depth']} | {row['format']} | {row['bytes'] / 2**20:,.1f} | "
            f"{row['tokens_per_second']:.0f} | {row['ratio']:.2f} × |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print_page(__doc__, page)
