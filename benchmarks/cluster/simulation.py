"""Published runs put through the planner: its simulation beside what the papers report.

    python -m benchmarks.cluster.simulation --json benchmarks/results/simulation.json

Long runs: interruptions and the fraction of the time spent training, by simulation. Steps: tokens per second
on more GPUs, by the α–β model, from the published speed of few. Nothing is measured here, and the numbers are
the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmarks import bench
from benchmarks.bench import Row
from cluster.planning import Machines, estimate, simulate, summary
from cluster.planning.forecast import WRITE_BANDWIDTH
from cluster.planning.hardware import GPUS, NETWORKS
from cluster.planning.reliability import RESTART_SECONDS, reliability
from cluster.planning.simulation import DAY, LongRun
from cluster.settings import PretrainSettings
from cluster.training.memory import unallocated

COMMIT_BYTES = 4e9
"""The most for each GPU: Llama 3's checkpoints have 1 MB to 4 GB (arXiv 2407.21783, section 3.3.1)."""
STEP_SECONDS = 10.0
"""A value that hardly matters, as commits are at whole steps."""
RESTARTS = (RESTART_SECONDS, 25 * 60.0)
"""This planner's value, and MegaScale's upper bounds (arXiv 2402.15627, section 6.3): 10 minutes until the
fault is found, and 15 until the run is back where it was."""
RUN_KEYS = ("run", "source", "gpus", "days", "days_said", "planned", "interruptions_said", "training_said")
RUNS: tuple[dict[str, Any], ...] = tuple(
    dict(zip(RUN_KEYS, values, strict=True))
    for values in (
        (
            "Llama 3 405B", "arXiv 2407.21783, section 3.3.4",
            16_384, 54, "54", 47, "419, and 47 planned", "more than 90 %",
        ),
        (
            "MegaScale, production run", "arXiv 2402.15627, sections 6.2 and 6.3",
            12_288, 28, "several weeks", 0, "more than 100", "more than 90 %",
        ),
        (
            "ByteRobust, dense model", "arXiv 2509.16293, abstract",
            9_600, 91, "three months", 0, "", "97 %",
        ),
    )
)  # fmt: skip
STEPS: tuple[dict[str, Any], ...] = (
    {"run": "without torch.compile", "few": 5_762, "many": 5_605, "mfu_said": 0.33},
    {"run": "torch.compile", "few": 6_667, "many": 6_514, "mfu_said": 0.39},
)
"""Tokens/s per GPU and MFU of Llama 3.1 8B on 8 and on 128 H100, from torchtitan's
benchmarks/llama3_h100_202412_torchtitan.md, tables 1 and 3."""
H100 = replace(GPUS["h100"], memory=96e9, memory_bandwidth=2.4e12, watts=500)
"""The H100 of that page, with 400 Gb/s between hosts for each."""
LLAMA = {
    "model": {
        "flavour": "llama",
        "width": 4096,
        "heads": 32,
        "key_value_heads": 8,
        "depth": 32,
        "feed_forward_width": 14_336,
        "basis": {"kind": "none", "size": 32},
        "prelude": 0,
        "tie_embeddings": False,
        "vocabulary_size": 128_256,
        "context_length": 8_192,
    },
    "data": {"shards": "none", "sequence_length": 8_192},
    "zero": {"stage": 3},
    "run": {"dir": "none"},
}


def long_run(published: dict[str, Any], restart: float) -> LongRun:
    """The run as it would be planned, with this restart time; planned interruptions are preemptions."""
    planned = reliability(published["gpus"], COMMIT_BYTES)
    return LongRun(
        steps=round(published["days"] * DAY / STEP_SECONDS),
        step_seconds=STEP_SECONDS,
        commit_every=planned.commit_every,
        commit_seconds=planned.commit_seconds,
        write_seconds=COMMIT_BYTES / WRITE_BANDWIDTH,
        failures_per_day=planned.failures_per_day,
        restart_seconds=restart,
        preemptions_per_day=published["planned"] / published["days"],
    )


def long_rows() -> Iterator[Row]:
    """The simulation of each long run."""
    for published in RUNS:
        for restart in RESTARTS:
            run = long_run(published, restart)
            result = summary(run, simulate(run, seed=0), seed=0)
            scale = published["days"] / result["days"]["median"]
            yield {
                "kind": "run",
                **published,
                "restart_minutes": restart / 60,
                "interruptions": scale * result["failures"],
                "training": result["goodput"],
                "again": result["parts"]["work made again"],
                "stopped": result["parts"]["restarts"],
            }


def llama(gpus: int, efficiency: float) -> Any:
    """The planner's estimate of Llama 3.1 8B: two sequences per GPU, weights and optimizer sharded."""
    train = {
        "steps": 1,
        "global_batch": 2 * gpus,
        "micro_batch": 2,
        "gradient": "direct",
        "precision": "bf16",
    }
    settings = PretrainSettings.model_validate({**LLAMA, "train": train, "cluster": {"workers": gpus}})
    return estimate(settings, Machines(gpus, H100, NETWORKS["ndr400"], efficiency))


def step_rows() -> Iterator[Row]:
    """The planner's speed of 128 GPUs, from the published speed of 8."""
    for published in STEPS:
        efficiency = efficiency_for(published["few"])
        few, many = llama(8, efficiency), llama(128, efficiency)
        flops = few.flops / (8 * 2 * 8_192)
        shape = few.settings.model
        whole_square = flops + 6 * shape.depth * shape.width * 8_192
        yield {
            "kind": "step",
            **published,
            "parameters": sum(p.numel() for p in unallocated(few.settings).parameters()),
            "efficiency": efficiency,
            "few_found": few.tokens_per_second / 8,
            "many_found": many.tokens_per_second / 128,
            "communication": many.seconds["communication"] / many.step_seconds,
            "mfu": published["few"] * flops / H100.bf16_flops,
            "mfu_whole_square": published["few"] * whole_square / H100.bf16_flops,
        }


def efficiency_for(tokens_per_second: float) -> float:
    """The fraction of peak FLOP/s at which each of 8 GPUs has this speed; all other time is known."""
    whole = llama(8, 1.0)
    rest = whole.step_seconds - whole.seconds["products"]
    return float(whole.seconds["products"] / (2 * 8_192 / tokens_per_second - rest))


def main() -> None:
    """Write and print all rows."""
    arguments = bench.parser(__doc__).parse_args()
    rows = [*long_rows(), *step_rows()]
    bench.save(arguments.json, {"rows": rows})
    for row in rows:
        bench.print_row(row)


if __name__ == "__main__":
    main()
