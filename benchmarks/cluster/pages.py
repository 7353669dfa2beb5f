"""Marked parts of docs/zero.md, docs/checkpoints.md, docs/planning.md, docs/pool.md and docs/faults.md."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.bench import Row, select, table, verdict

Content = dict[str, Any]


def traffic(content: Content) -> str:
    """Megabytes per step of each model by ZeRO stage, and the ratio of the depth weights."""
    rows = {(row["stage"], row["model"]): row for row in content["rows"]}
    names = list(dict.fromkeys(row["model"] for row in content["rows"]))
    lines = []
    for stage in sorted({row["stage"] for row in content["rows"]}):
        of_stage = [rows[stage, name] for name in names]
        cells = [f"{row['bytes'] / 1e6:.2f} ({row['bytes'] / row['parameters']:.2f})" for row in of_stage]
        ratio = _depth_bytes(rows[stage, "K = D/2"]) / _depth_bytes(rows[stage, "ordinary"])
        lines.append([str(stage), *cells, f"{ratio:.3f}"])
    return (
        f"`python -m benchmarks.cluster.traffic` ({content['machine']}; {content['date']}): two gloo "
        "workers, width 128, D = 8; MB sent per optimizer step, and in brackets bytes per stored "
        "parameter.\n\n" + table(["stage", *names, "depth weights, K = D/2 over ordinary"], lines)
    )


def _depth_bytes(row: Row) -> float:
    """Bytes per step of the weights that depend on depth, as bytes follow parameters."""
    return float(row["bytes"] * row["depth_parameters"] / row["parameters"])


WAYS = {
    "ours": "a commit",
    "torch.save": "`torch.save`, flushed",
    "async_save": "`torch.distributed.checkpoint.async_save`",
}
BLOCKED_BAR = 0.10
"""The largest fraction of a synchronous save that training may wait for."""


def checkpointing(content: Content) -> str:
    """How long training waits for each way to save."""
    lines = []
    for name, words in WAYS.items():
        seconds, first = content["seconds"][name], content["first"][name]
        lines.append(
            [
                words,
                f"{seconds['blocked']:.3f} ({first['blocked']:.3f})",
                f"{content['blocked_ratio'][name]:.3f}",
                f"{seconds['passes']:.2f}",
                f"{content['passes_ratio'][name]:.2f}",
                f"{seconds['durable']:.2f} ({first['durable']:.2f})",
                f"{content['durable_ratio'][name]:.2f}",
            ]
        )
    over = "over `torch.save`"
    titles = ["", "training waits, s", over, "passes, s", over, "durable after, s", over]
    ratio, rounds = content["blocked_ratio"]["ours"], content["rounds"]["ours"]
    of_commit = statistics.median(row["blocked"] / row["durable"] for row in rounds)
    return "\n\n".join(
        [
            f"`python -m benchmarks.cluster.checkpointing` ({content['machine']}; {content['date']}): preset "
            f"`small` ({content['parameters'] / 1e6:.0f} M parameters), one worker, "
            f"{content['bytes'] / 1e9:.2f} GB of state, taking turns, medians of {len(rounds)} rounds; in "
            "brackets the first round, which allocates the memory. Passes: forward and backward of the step "
            "after the save, on the same cores as the work in the background.",
            table(titles, lines),
            f"Training may wait for {BLOCKED_BAR:.2f} of a synchronous save. Against `torch.save`, which "
            f"computes no digests, it waits for {ratio:.3f} ({verdict(ratio <= BLOCKED_BAR)}); against a "
            f"commit that training waits for entirely, {of_commit:.3f}.",
        ]
    )


PLAN_BARS = {"memory": 0.10, "bytes": 0.02}


def plan(content: Content) -> str:
    """A table for memory and one for bytes: the estimate, the measurement, and the difference."""
    rows = content["rows"]
    parts = [
        f"`python -m benchmarks.cluster.plan` ({content['machine']}; {max(row['date'] for row in rows)}): "
        "DeepSpeed workers with a gloo group, width 128, D = 8, sequences of 128 tokens, vocabulary 2,048."
    ]
    for kind, what in (("memory", "Memory of a worker, two workers"), ("bytes", "Bytes in a step")):
        chosen, bar = select(rows, kind=kind), PLAN_BARS[kind]
        worst = max(abs(plan_error(row)) for row in chosen)
        lines = [
            [_shape(row), f"{row['said'] / 1e6:.2f}", f"{row['found'] / 1e6:.2f}", f"{plan_error(row):+.1%}"]
            for row in chosen
        ]
        parts += [
            f"**{what}**: {len(chosen)} runs, at most {worst:.1%} off (bar: within {bar:.0%} each): "
            f"{verdict(worst <= bar)}.",
            table(["run", "estimate, MB", "measured, MB", "off"], lines),
        ]
    return "\n\n".join(parts)


def plan_error(row: Row) -> float:
    """The relative error of an estimate."""
    return float(row["said"] / row["found"] - 1)


def _shape(row: Row) -> str:
    """The settings that distinguish a row."""
    words = [f"stage {row['stage']}"]
    if row["kind"] == "memory":
        words += [f"`{row['gradient']}`", f"K = {row['sets']}", f"micro-batch {row['batch']}"]
        words += [f"{row['passes']} passes"] if "passes" in row else []
        words += [row["precision"]] if "precision" in row else []
        if "teacher" in row:
            words += [f"a teacher of width {row['teacher']['width']} at N = {row['teacher']['depth']}"]
    else:
        words += [f"{row['workers']} workers", f"{row['passes']} passes"]
        words += [f"tensors below {row['threshold']:,} whole"] if row["threshold"] else []
    return ", ".join(words)


RUN_TITLES = (
    "run | published: time | interruptions | training | restart, min | simulated: interruptions | "
    "training [5 %, 95 %] | repeated | restarting"
)
STEP_TITLES = (
    "FSDP | published: tokens/s of a GPU, 8 | 128 | kept | efficiency | planned: 128 | kept | off | "
    "communication in a step"
)


def simulation(content: Content) -> str:
    """Published runs beside the planner's simulation of them: long runs, then speeds."""
    runs, steps = select(content["rows"], kind="run"), select(content["rows"], kind="step")
    least, *_, most = [_step_off(row) for row in sorted(steps, key=_step_error)]
    return "\n\n".join(
        [
            "`python -m benchmarks.cluster.simulation` computes this; nothing is measured. Failures, "
            "commits and the store are those of `plan --simulate` (4 GB per GPU, the maximum in the Llama 3 "
            "paper). A restart takes this planner's five minutes, or 25: MegaScale reports less than 10 "
            "until the fault is found, and 15 until the run is back where it was.",
            table(RUN_TITLES, map(_run, runs)),
            "Llama 3's interruptions test nothing, since they set the failure rate; MegaScale's do (several "
            "weeks taken as 28 days). The published fractions of time spent training, two of which are "
            "bounds, lie between those for the two restart times; ByteRobust's (warm standby machines, "
            "checkpoints in memory) is near that for the short one. The restart time matters most, so "
            "measure yours. Slow nodes and missing spares are not simulated here.",
            "Speed, Llama 3.1 8B on H100 (torchtitan, `benchmarks/llama3_h100_202412_torchtitan.md`, tables "
            f"1 and 3; {steps[0]['parameters']:,} parameters, as the published checkpoint has): the "
            "published speed of 8 GPUs sets the efficiency of matmuls, and the α–β model gives that of 128.",
            table(STEP_TITLES, map(_step, steps)),
            f"The planner is {least} to {most} off: it assumes float32 gathers without overlap, while "
            "torchtitan gathers bfloat16 during computation. The published MFU on 8 GPUs, "
            + " and ".join(f"{row['mfu_said']:.0%}" for row in steps)
            + ", equals ours at the same speed if all of the attention matrix is counted, as they do ("
            + ", ".join(f"{row['mfu_whole_square']:.1%}" for row in steps)
            + "); the half of it that causal attention needs gives "
            + " and ".join(f"{row['mfu']:.1%}" for row in steps)
            + ".",
        ]
    )


def _run(row: Row) -> list[str]:
    training = row["training"]
    return [
        f"{row['run']}, {row['gpus']:,} GPUs ({row['source']})",
        row["days_said"] + (" days" if row["days_said"].isdigit() else ""),
        row["interruptions_said"] or "–",
        row["training_said"],
        f"{row['restart_minutes']:.0f}",
        f"{row['interruptions']:.0f}" + (f", and {row['planned']} planned" if row["planned"] else ""),
        f"{training['median']:.1%} [{training['low']:.1%}, {training['high']:.1%}]",
        f"{row['again']:.1%}",
        f"{row['stopped']:.1%}",
    ]


def _step(row: Row) -> list[str]:
    return [
        row["run"],
        f"{row['few']:,}",
        f"{row['many']:,}",
        f"{row['many'] / row['few']:.1%}",
        f"{row['efficiency']:.1%}",
        f"{row['many_found']:,.0f}",
        f"{row['many_found'] / row['few_found']:.1%}",
        _step_off(row),
        f"{row['communication']:.1%}",
    ]


def _step_error(row: Row) -> float:
    return float(row["many_found"] / row["many"] - 1)


def _step_off(row: Row) -> str:
    return f"{_step_error(row):+.1%}"


OVERHEAD_BAR = 1.05
"""The longest step under Ray and DeepSpeed, over that of a plain loop."""


def overhead(content: Content) -> str:
    """The sentence on a step under Ray and DeepSpeed."""
    parts = []
    for name, of_way in (("eager", content), ("compiled", content.get("compiled"))):
        if of_way is None:
            parts.append(f"{name} not run")
            continue
        ratio, ratios = of_way["ratio"], of_way["ratios"]
        parts.append(
            f"{name} {ratio:.2f} × ({len(ratios)} rounds, {min(ratios):.2f} to {max(ratios):.2f}; bar "
            f"{OVERHEAD_BAR}: {verdict(ratio <= OVERHEAD_BAR)})"
        )
    return ", ".join(parts)


def pool(content: Content) -> str:
    """The sentence on how soon a job starts."""
    first = content["to_first_step"]
    return (
        f"{len(content['rows'])} small jobs, one after the other, made their first step "
        f"{first['median']:.1f} s after their submission ({first['max']:.1f} s at most), and held their slot "
        f"for {content['beside_steps']:.1f} s beyond their steps"
    )


CHAOS_BARS = {"minutes": 30, "faults": 60}
LEFT = ("processes", "folders", "temporary", "files_with_secrets")


def chaos(content: Content) -> str:
    """The faults of the chaos run by kind, and what was checked at its end."""
    checks, left, faults = content["checks"], content["left"], content["faults"]
    number, jobs, minutes = sum(faults.values()), checks["jobs_succeeded"], content["minutes"]
    kept = {
        f"faults in {minutes:.0f} minutes (bar: {CHAOS_BARS['faults']} in {CHAOS_BARS['minutes']})": (
            str(number),
            number >= CHAOS_BARS["faults"] and minutes >= CHAOS_BARS["minutes"],
        ),
        "the run's weights against those of an undisturbed run": (
            "the same bits" if checks["weights_bit_identical"] else "different",
            checks["weights_bit_identical"],
        ),
        "jobs done, each once, with one version each": (
            str(jobs),
            checks["each_job_once"] and checks["one_version_per_job"],
        ),
        "runs and jobs without exactly one loss per step in MLflow": (
            str(len(checks["without_one_value_per_step"])),
            not checks["without_one_value_per_step"],
        ),
        "processes, folders, unfinished files and files with a secret left behind": (
            str(sum(len(left[kind]) for kind in LEFT)),
            not any(left[kind] for kind in LEFT),
        ),
    }
    kinds = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in faults.items())
    return (
        f"`python -m benchmarks.cluster.chaos --minutes {minutes:.0f}` ({content['machine']}; "
        f"{content['date']}).\n\n"
        + table(
            ["checked", "measured", ""], [[what, value, verdict(ok)] for what, (value, ok) in kept.items()]
        )
        + f"\n\nThe faults: {kinds}."
    )


def uploads(content: Content) -> str:
    """The memory and the disk that uploads take, and how long others wait meanwhile, a row for each way."""
    lines = [
        [
            row["way"],
            _counted(row["answers"]) or "–",
            *(f"{row[f'{what} MiB']:,.0f}" for what in ("proxy", "door", "disk")),
            *(f"{1000 * row[f'{which} wait']:,.0f}" for which in ("median", "longest")),
        ]
        for row in content["rows"]
    ]
    titles = ["sent", "answer", "proxy, MiB", "door, MiB", "disk, MiB", "others' median, ms", "longest, ms"]
    return (
        f"`python -m benchmarks.cluster.uploads` ({content['machine']}; {content['date']}; load "
        f"{content['load']:.0f}): growth of memory and open files while uploads are sent over loopback, and "
        "what another team's requests take meanwhile.\n\n" + table(titles, lines)
    )


def _counted(answers: str) -> str:
    """The answers with how often each was given, as ``2 × 200, 8 × 429``."""
    statuses = answers.split(", ")
    return ", ".join(
        status if len(statuses) == 1 else f"{statuses.count(status)} × {status}"
        for status in dict.fromkeys(statuses)
    )
