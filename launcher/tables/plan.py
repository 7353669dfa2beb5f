"""The result of ``odeformer plan``, also with ``--simulate``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from rich.console import RenderableType
from rich.table import Table

from cluster.planning import Estimate
from cluster.planning.forecast import Summary
from cluster.planning.simulation import DAY
from launcher.terminal.console import make_table
from launcher.terminal.durations import duration

SHOWN = 6
"""Number of alternatives to show; the configured run is always among them."""


def estimate_report(given: Estimate, choices: Sequence[Estimate]) -> list[RenderableType]:
    """The configured run, then the alternatives, the fastest first."""
    best = choices[0]
    if not best.fits:
        advice = "nothing fits: more memory, a smaller model, or zero.offload_optimizer=cpu"
    elif _as_settings(best) == _as_settings(given):
        advice = "the configured run is the fastest of these"
    else:
        advice = f"the fastest that fits: {_as_settings(best)}"
    return [
        *_lines(given),
        _parts(given),
        _choices(given, choices),
        advice,
        "memory and bytes are checked against real workers; times are a model: nothing overlaps, matmuls "
        f"reach {given.efficiency:.0%} of the peak ({given.efficiency_source}; measured on one GPU of yours: "
        "--efficiency)",
    ]


def simulation_report(given: Estimate, simulated: Summary) -> list[RenderableType]:
    """Duration, goodput and lost time of simulated runs, compared with the formula's goodput."""
    assumed, goodput = simulated["happens"], simulated["goodput"]
    low, median, high = (duration(DAY * simulated["days"][name]) for name in ("low", "median", "high"))
    table = make_table("share of the time", numbers=("%",))
    for part, share in simulated["parts"].items():
        table.add_row(part, f"{share:.2%}".removesuffix("%"))
    return [
        f"simulated {simulated['runs']} times (seed {simulated['seed']}), median, 5 % and 95 %:",
        f"the run: {median} [{low}, {high}]",
        f"goodput: {goodput['median']:.2%} [{goodput['low']:.2%}, {goodput['high']:.2%}]; by the formula "
        f"{given.reliability.goodput:.2%}",
        f"mean: {simulated['failures']:,.1f} failures, {simulated['preemptions']:,.1f} preemptions; assumed: "
        f"{assumed['spares']} spare nodes, {assumed['restart_seconds'] / 60:,.0f} min per restart, "
        f"a commit is durable {assumed['write_seconds']:,.1f} s after it was copied",
        table,
    ]


def _lines(estimate: Estimate) -> list[str]:
    content, machines, train = estimate.content(), estimate.machines, estimate.settings.train
    tokens = train.global_batch * estimate.settings.data.sequence_length
    used, available = estimate.memory.total()[0] / 1e9, machines.gpu.memory / 1e9
    nodes = -(-machines.gpus // machines.gpu.per_node)
    cost = [
        duration(86400 * content["days"]),
        f"{content['gpu_hours']:,.0f} GPU hours",
        f"{content['megawatt_hours']:,.2f} MWh",
    ]
    if content["price"] is not None:
        cost.append(f"price {content['price']:,.0f}")
    return [
        f"{machines.gpus} × {machines.gpu.name} on {nodes} {'node' if nodes == 1 else 'nodes'}, "
        f"{machines.network.name} between them",
        f"memory: {used:,.1f} of {available:,.0f} GB each" + ("" if estimate.fits else " – IT DOES NOT FIT"),
        f"a step: {tokens:,} tokens in {_seconds(estimate.step_seconds)}, MFU {estimate.utilization:.1%}",
        f"the run: {train.steps:,} steps, {train.steps * tokens / 1e9:,.1f} G tokens at "
        f"{content['tokens_per_day'] / 1e9:,.1f} G a day: {', '.join(cost)}",
        f"failures: {content['failures_per_day']:.2f} a day expected; a commit every "
        f"{duration(content['commit_every'])}, {content['commit_seconds']:.2f} s each; "
        f"goodput {content['goodput']:.2%}",
    ]


def _parts(estimate: Estimate) -> Table:
    """Memory, time and traffic by part, side by side."""
    table = make_table("memory", numbers=("GB",))
    for title, unit in (("time of a step", ""), ("sent in a step", "GB")):
        table.add_column(title)
        table.add_column(unit, justify="right")
    memory = [(name, f"{size / 1e9:,.2f}") for name, size in estimate.memory.device.items() if size]
    times = [(name, _seconds(spent)) for name, spent in estimate.seconds.items()]
    sent = [(name.replace("_", "-"), f"{size / 1e9:,.2f}") for name, size in estimate.bytes_sent.items()]
    for first, second, third in zip_longest(memory, times, sent, fillvalue=("", "")):
        table.add_row(*first, *second, *third)
    return table


def _choices(given: Estimate, choices: Sequence[Estimate]) -> Table:
    table = make_table(
        "ZeRO stage", "gradient", numbers=("micro-batch", "memory, GB", "step", "MFU", "G tokens a day")
    )
    shown = list(choices[:SHOWN])
    if not any(_as_settings(choice) == _as_settings(given) for choice in shown):
        shown.append(given)
    for choice in shown:
        table.add_row(
            str(choice.settings.zero.stage),
            choice.settings.train.gradient,
            str(choice.settings.train.micro_batch),
            f"{choice.memory.total()[0] / 1e9:,.1f}" + ("" if choice.fits else " too much"),
            _seconds(choice.step_seconds),
            f"{choice.utilization:.1%}",
            f"{choice.content()['tokens_per_day'] / 1e9:,.1f}",
            style="bold" if _as_settings(choice) == _as_settings(given) else "",
        )
    return table


def _as_settings(estimate: Estimate) -> str:
    train = estimate.settings.train
    return (
        f"--set zero.stage={estimate.settings.zero.stage} --set train.gradient={train.gradient} "
        f"--set train.micro_batch={train.micro_batch}"
    )


def _seconds(value: float) -> str:
    return f"{1000 * value:,.1f} ms" if value < 1 else f"{value:,.2f} s"
