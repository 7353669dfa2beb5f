"""The importing benchmark's results as Markdown: docs/importing.md.

python -m benchmarks.importing_tables benchmarks/results/importing.json > docs/importing.md
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from benchmarks.importing_claims import chosen, judged
from benchmarks.importing_rows import OURS, WAYS, Way
from benchmarks.result_page import print_page

COMMANDS = """\
You have a GPT-NeoX (Pythia), Llama or GPT-2 checkpoint as `transformers` saves it: a folder `ordinary` with
`config.json`, `model.safetensors` and `tokenizer.json`. Make text into shards with its own tokenizer:

```bash
odeformer data build --text more.txt --tokenizer ordinary/tokenizer.json --out shards
```

Import it. At N = L the result is the very same transformer; `--text` shows what it makes of a text before
and after, at other depths too:

```bash
odeformer models import --from ordinary --out imported --text held-out.txt
```

Train it on at L and L/2, with the preset made for it:

```bash
odeformer pretrain continue --init imported --set data.shards=shards --set run.dir=runs/continued
```

The preset is for 8 layers: with twice as many add `--set "train.depths=[8, 16]"`; with more text
`--set train.steps=STEPS`. Every batch runs at both depths (`train.objective: two_depths`). For a checkpoint
that has seen the first sequences of these very shards, `--set data.start=SEQUENCES` begins behind them.
Then look at the depths, and take away the one you can afford as an ordinary checkpoint:

```bash
odeformer eval --model runs/continued/final --text held-out.txt --depth 4 --depth 8 --depth 16
odeformer models export --model runs/continued/final --depth 4 --out ordinary-4
```

```python
from transformers import AutoModelForCausalLM, AutoTokenizer  # none of this package is needed

model = AutoModelForCausalLM.from_pretrained("ordinary-4")
tokenizer = AutoTokenizer.from_pretrained("ordinary-4")
```"""

MEASURED = """\
Each seed is another GPT-NeoX of 8 layers and width 128, a class of `transformers`, trained here on {tokens} M
tokens and saved by `transformers`; none was downloaded. The extra tokens are the {extra} k that come next in
the same stream, seen once. Every way of training on has the same ones in the same order, batches, optimizer,
warm-up, weight decay and, but for "with all layers", both depths in every batch. Where layers are dropped,
the model is `transformers`' own with layers left out; in use those of four choices stay (every other one from
the first or the second on, or with both ends) that lose least.

Of the learning rates {rates}, tried in rising order until a way got worse, each way has the one that was
best for seed 0 on the validation loss: the others by that at N = L/2 (with all layers: at N = L), ours by the
mean of both, {rate}. Perplexity per token of held-out text; differences are paired by checkpoint, in brackets
the 95 % interval of their mean. The logits of checkpoint and import at N = L in float32 differ by at most
{difference} of their standard deviation."""


OTHER_DEPTHS = """\
The depths that are trained at are the good ones: those between and beyond stay about where the import was.
Train at the depths you will run (`train.depths`). And if L is all you need, train on at L alone."""


def page(content: dict[str, Any]) -> str:
    """The how-to, and everything a results file says."""
    rows = content["rows"]
    dates = sorted({row["date"] for row in rows})
    return "\n\n".join(
        [
            "# From a checkpoint of one depth to one that runs at half of it too",
            COMMANDS,
            "## What to expect",
            "What `python -m benchmarks.importing --json benchmarks/results/importing.json` measured; this "
            "page is printed by `python -m benchmarks.importing_tables benchmarks/results/importing.json`. "
            f"Machine: {content['machine']}; rows from {dates[0]} to {dates[-1]}.",
            MEASURED.format(
                tokens=f"{content['tokens'] / 1e6:g}",
                extra=f"{content['extra'] / 1e3:g}",
                rates=", ".join(
                    f"{rate:g}" for rate in sorted({row["learning_rate"] for row in rows} - {0.0})
                ),
                rate=f"{next(iter(chosen(rows, OURS.name).values()))['learning_rate']:g}",
                difference=f"{content['largest_difference']:.0e}",
            ),
            claims_table(rows),
            "Perplexity, the mean over seeds:",
            losses_table(rows),
            OTHER_DEPTHS,
            "Which settings were tried, and what failed: [experiments](experiments.md).",
        ]
    )


def claims_table(rows: list[dict[str, Any]]) -> str:
    """A line for each claim; those without a bar are only shown."""
    lines = ["| perplexity on held-out text | bar | measured | |", "|---|---|---|---|"]
    lines += [
        f"| {c['claim']} | {c['bar'] or '–'} | {c['measured']} | {c['verdict']} |" for c in judged(rows)
    ]
    return "\n".join(lines)


def losses_table(rows: list[dict[str, Any]]) -> str:
    """A line for each way."""
    depths = sorted({int(n) for row in rows for n in row["validation_loss"]})
    lines = [
        f"| checkpoint of L = 8 layers | seeds | rate | {' | '.join(f'N = {n}' for n in depths)} |",
        "|---" * (3 + len(depths)) + "|",
    ]
    lines += [_line(way, list(chosen(rows, way.name).values()), depths) for way in WAYS]
    return "\n".join(lines)


def _line(way: Way, rows: list[dict[str, Any]], depths: list[int]) -> str:
    if not rows:
        return f"| {way.name} | 0 |" + " |" * (1 + len(depths))
    cells = []
    for n in depths:
        losses = [row["validation_loss"][str(n)] for row in rows if str(n) in row["validation_loss"]]
        cells.append(f"{math.exp(statistics.mean(losses)):.1f}" if losses else "")
    rate = rows[0]["learning_rate"]
    return f"| {way.name} | {len(rows)} | {f'{rate:g}' if rate else '–'} | {' | '.join(cells)} |"


if __name__ == "__main__":
    print_page(__doc__, page)
