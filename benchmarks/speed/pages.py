"""Marked parts of docs/generation.md, docs/small_devices.md and docs/benchmarks.md."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Row, measured_by, select, table, verdict

BARS = {256: 1.3, 768: 1.0}
"""The least ratio of tokens per second to ``transformers``, by width."""
SPECULATIVE_BAR = 1.2


def generation(content: dict[str, Any]) -> str:
    """The rates of all shapes."""
    machine = f"Machine: {content['machine']}; {content['date']}."
    return f"{measured_by('speed.generation', 'generation')} {machine}\n\n{rates_table(content['rows'])}"


def rates_table(rows: list[Row]) -> str:
    """A line for each shape and batch."""
    titles = "width | layers | batch | new tokens | ours | transformers | bandwidth | ratio | bar | "
    lines = []
    for row in rows:
        bar = BARS[row["width"]]
        shape = [str(row[key]) for key in ("width", "depth", "batch", "new_tokens")]
        rates = [f"{row[f'{who}tokens_per_second']:.0f}/s" for who in ("", "transformers_", "bandwidth_")]
        lines.append([*shape, *rates, f"{row['ratio']:.2f} ×", f"≥ {bar} ×", verdict(row["ratio"] >= bar)])
    return table(titles, lines)


def speculation(content: dict[str, Any]) -> str:
    """The gain from speculative decoding."""
    measured = content["speculative"]
    return (
        f"Width {measured['width']}, D = {measured['depth']}, trained; N = {measured['shallow']} drafts "
        f"{measured['ahead']} tokens, N = {measured['deep']} verifies them. Accepted were "
        f"{100 * measured['acceptance']:.0f} % of the drafted tokens; {measured['tokens_per_second']:.0f} "
        f"tokens/s against {measured['plain_tokens_per_second']:.0f} without a draft, "
        f"{measured['ratio']:.2f} × (bar ≥ {SPECULATIVE_BAR} ×: "
        f"{verdict(measured['ratio'] >= SPECULATIVE_BAR)}); {measured['same_texts']} of "
        f"{measured['prompts']} greedy texts the same."
    )


def small_devices(content: dict[str, Any]) -> str:
    """The losses of all formats, then their speeds."""
    flavours = dict.fromkeys(row["flavour"] for row in content["losses"])
    return "\n\n".join(
        [
            measured_by("speed.small_formats", "small_formats") + f" Machine: {content['machine']}; "
            f"{content['llamacpp']}; {content['date']}.",
            f"Loss in nats per token on {content['tokens']:,} tokens of the standard library's "
            "held-out files, for models of width 128, D = 8, trained on the rest of it for 500 steps "
            "at 8 cells, towards the end at 4 or 8 (preset `tiny`). Difference: to fp32. Logits: the "
            "largest difference of a logit, in standard deviations. Bytes: weights in memory, or the file. "
            "A GGUF file's loss is that of its weights with all other arithmetic in fp32; “in llama.cpp” is "
            "llama.cpp's own, which also rounds the activations that `q8_0` matrices multiply, and keeps "
            "keys and values in half precision.",
            *(losses_table(select(content["losses"], flavour=flavour)) for flavour in flavours),
            "## Speed",
            "Greedy, batch 1, one thread, 32 tokens of prompt, taking turns in one process; untrained `neox` "
            "models at N = D. Ratio: tokens per second over fp32, the median of the rounds. Other "
            f"work shared the cores (a load of {content['load']:.1f}), which affects ratios less than rates.",
            speeds_table(content["speeds"]),
        ]
    )


def losses_table(rows: list[Row]) -> str:
    """A flavour's table: a line for each format, columns for each depth."""
    depths = sorted({row["depth"] for row in rows})
    titles = [f"`{rows[0]['flavour']}`", f"KiB, N = {depths[0]}"]
    for depth in depths:
        titles += [f"loss, N = {depth}", "difference", "logits"]
    lines = []
    for name in dict.fromkeys(row["format"] for row in rows):
        by_depth = {row["depth"]: row for row in select(rows, format=name)}
        line = [name, f"{by_depth[depths[0]]['bytes'] / 1024:,.0f}"]
        for depth in depths:
            row = by_depth[depth]
            line += [
                f"{row['loss']:.4f}",
                f"{row['loss_difference']:+.5f}",
                f"{row['logits_difference']:.1e}",
            ]
        lines.append(line)
    return table(titles, lines)


def speeds_table(rows: list[Row]) -> str:
    """A line for each width and format."""
    lines = [
        [
            str(row["width"]),
            str(row["depth"]),
            row["format"],
            f"{row['bytes'] / 2**20:,.1f}",
            f"{row['tokens_per_second']:.0f}",
            f"{row['ratio']:.2f} ×",
        ]
        for row in rows
    ]
    return table(["width", "layers", "format", "MiB", "tokens/s", "ratio"], lines)


def startup(content: dict[str, Any]) -> str:
    """The sentence on the time until help or an error is printed."""
    [shown, *mistakes] = content["rows"]
    late = [row["more"] for row in mistakes if row["more"] > content["bar"]]
    text = f"help {shown['more']:.2f} s more (bar {content['bar']} s)"
    if not late:
        return f"{text}, everything else at most {max(row['more'] for row in mistakes):.2f} s"
    return f"{text}; MISSED by {len(late)} of {len(mistakes)} others: {min(late):.2f} to {max(late):.2f} s"


def throughput(content: dict[str, Any]) -> str:
    """The sentence on training throughput, by width."""
    names = {
        "ratio_compiled_to_eager": ("K = D compiled over eager", 1.2),
        "ratio_compiled_to_peer_compiled": ("over the faster peer, both compiled", 1.0),
        "ratio_ordinary_to_peer": ("our ordinary model over the faster peer", 1.0),
        "ratio_full": ("K = D over ordinary", None),
        "ratio_half": ("K = D/2 over ordinary", None),
    }
    texts = []
    for row in content["rows"]:
        parts = []
        for key, (name, bar) in names.items():
            measured = row[key]
            judged = "" if bar is None else f", bar {bar}: {verdict(measured['ratio'] >= bar)}"
            parts.append(
                f"{name} {measured['ratio']:.2f} × ({measured['low']:.2f} to {measured['high']:.2f}{judged})"
            )
        texts.append(f"width {row['width']}: " + "; ".join(parts))
    return ". ".join(texts)


def serving(content: dict[str, Any]) -> str:
    """The sentence on the server."""
    rates, budget, left = content["rates"], content["budget"], content["requests"]
    bars = (
        ("ratio_together", "eight clients with four adapters over one after another", 2.5),
        ("ratio_half_depth", "N = D/2 over N = D", 1.5),
        ("ratio_transformers", "over `transformers`' continuous batching", 1.0),
    )
    parts = [
        f"{name} {rates[key]:.2f} × (bar {bar}: {verdict(rates[key] >= bar)})" for key, name, bar in bars
    ]
    late = max(phase["p95_ms"] for phase in budget["phases"])
    kept = verdict(late <= budget["budget_ms"] and not budget["failed"])
    parts.append(
        f"[while the clients double](../benchmarks/results/serving.png) 95 % of the tokens within "
        f"{late:.0f} ms, budget {budget['budget_ms']:.0f} ms: {kept}"
    )
    (early, before), (many, after) = left["after"].items()
    grown = (after["replica_bytes"] - before["replica_bytes"]) / 2**20
    parts.append(
        f"from {early} to {many} requests the replica grew by {grown:.0f} MiB, "
        f"{after['replica_files'] - before['replica_files']} open files, "
        f"{after['processes'] - before['processes']} processes; "
        f"at the end {left['files_left']} files and {left['processes_left']} processes were left"
    )
    parts.append(
        f"load of the machine's 2 cores before the budget {budget['load_before']:.0f}, before the requests "
        f"{left['load_before']:.0f}"
    )
    return "; ".join(parts)
