"""The quick form of every benchmark, and the committed numbers that it does not confirm.

    python -m benchmarks.quick              # all of them, within an hour on two cores: make bench-quick
    python -m benchmarks.quick loader plan  # those that write loader.json and plan.json

Compared with ``benchmarks/results`` are ratios, which may differ by :data:`TOLERANCE`, and whether bars are
reached. Seconds and bytes are not: they are another machine's. What is measured is kept in ``runs/``.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from benchmarks import bench
from benchmarks.adapters.packing import claims as packing_claims
from benchmarks.adapters.pages import claims as adapter_claims
from benchmarks.analysis.pages import cost_claims
from benchmarks.cluster.pool import BAR
from benchmarks.docs import RESULTS, ROOT, results
from benchmarks.figures import (
    Content,
    Figures,
    loss_differences,
    losses_by_depth,
    planned,
    ratios,
    simulated,
    verdicts,
)
from benchmarks.gradients.pages import claims as gradient_claims
from launcher.quickstart.standard_library import sources

TOLERANCE = 0.25
"""The largest relative difference of a ratio: single rounds beside other work scatter by as much."""
LIMIT = 900
"""Seconds after which a benchmark is stopped."""
FOLDER = ROOT / "runs/bench-quick"


class Quick(NamedTuple):
    """The quick form of a benchmark."""

    module: str
    """Name of the module in ``benchmarks``."""
    results: str
    """The name of its results file."""
    options: str = ""
    """Further arguments; ``{folder}`` is the folder of all results, ``{text}`` the files to train on."""
    figures: Callable[[Content], Figures] = ratios
    """What is compared."""


CHECKPOINT, SHARDS = "{folder}/quality.checkpoint", "{folder}/quality.shards"
"""What the benchmark of quality leaves: a trained model with K = D/2, and the shards it was trained on."""
QUALITY = '--text {text} --tokens 300000 --only "ordinary, D layers" "K = D" "K = D/2, any depth"'
BENCHMARKS = (
    Quick("quality.compare", "quality", QUALITY, losses_by_depth),
    Quick("gradients", "gradients", "--quick", lambda content: verdicts(gradient_claims(content))),
    Quick(
        "gradients.ode_order",
        "ode_order",
        f"--checkpoint {CHECKPOINT}",
        lambda content: {f"order of {name}": slopes[-1] for name, slopes in content["slopes"].items()},
    ),
    Quick("quality.harness", "harness", f"--model {CHECKPOINT} --depth 8 --limit 20"),
    Quick(
        "quality.importing",
        "importing",
        "--tokens 100000 --extra 20000 --seeds 1",
        lambda content: {claim["claim"]: claim["verdict"] for claim in content["claims"]},
    ),
    Quick(
        "quality.students",
        "students",
        "--quick",
        lambda content: {claim["claim"]: claim["verdict"] for claim in content["claims"]},
    ),
    Quick("speed.generation", "generation", "--rounds 1 --new-tokens 64"),
    Quick("throughput", "throughput", "--rounds 2"),
    Quick("gpu", "gpu", "--rehearse"),
    Quick(
        "speed.startup",
        "startup",
        figures=lambda content: {
            row["what"]: bench.verdict(row["more"] <= content["bar"]) for row in content["rows"]
        },
    ),
    Quick(
        "speed.small_formats",
        "small_formats",
        f"--model {CHECKPOINT} --depth 8 --tokens 4096 --speeds --rounds 1",
        loss_differences,
    ),
    Quick("serving", "serving", "--rounds 1 --requests 100"),
    Quick("data.loader", "loader", "--rounds 1"),
    Quick(
        "data.shuffle",
        "shuffle",
        figures=lambda content: {
            f"{name}, root mean square in standard errors": content[name]["rms"] / content["standard_error"]
            for name in ("ours", "full shuffle")
        },
    ),
    Quick("data.build", "data_build", "--rounds 1"),
    Quick("analysis.cost", "analysis", "--rounds 1", lambda content: verdicts(cost_claims(content))),
    Quick(
        "analysis.faithfulness",
        "faithfulness",
        "--prompts 32",
        lambda content: {f"best by {name}": best for name, best in content["judgement"]["best"].items()},
    ),
    Quick(
        "adapters.compare",
        "adapters",
        "--only sizes formats steps together --rounds 2",
        lambda content: verdicts(adapter_claims(content["rows"])),
    ),
    Quick("adapters.packing", "packing", "", lambda content: verdicts(packing_claims(content["rows"]))),
    Quick("cluster.overhead", "overhead", "--rounds 1"),
    Quick("cluster.scoring", "scoring", "--rounds 1"),
    Quick(
        "cluster.pool",
        "pool",
        figures=lambda content: {
            f"first step within {BAR} s": bench.verdict(content["to_first_step"]["median"] <= BAR)
        },
    ),
    Quick("cluster.pool_sharing", "pool_sharing"),
    Quick(
        "cluster.uploads",
        "uploads",
        figures=lambda content: {row["way"]: row["answers"] for row in content["rows"][:-1]},
    ),
    Quick(
        "cluster.traffic",
        "traffic",
        figures=lambda content: {
            f"{row['model']}, stage {row['stage']}: bytes for a parameter": row["bytes"] / row["parameters"]
            for row in content["rows"]
        },
    ),
    Quick("cluster.plan", "plan", figures=planned),
    Quick("cluster.simulation", "simulation", figures=simulated),
    Quick("cluster.checkpointing", "checkpointing", "--rounds 1"),
    Quick(
        "cluster.soak",
        "soak",
        "--steps 200",
        lambda content: {
            "one value for each step": content["one_value_per_step"],
            "nothing is left": not any(content["left"].values()),
        },
    ),
)
LEFT_OUT = {"cluster.chaos": "needs root and half an hour of its own"}


class Outcome(NamedTuple):
    """What a quick form showed."""

    failed: bool
    compared: int
    """The number of figures in both files."""
    lines: list[str]
    """What is not confirmed, one line for each figure."""


def run(quick: Quick) -> Outcome:
    """Run a quick form and compare it with the committed results."""
    out = FOLDER / f"{quick.results}.json"
    start_afresh(quick.results)
    command = [sys.executable, "-m", f"benchmarks.{quick.module}", "--json", str(out)]
    command += shlex.split(quick.options.format(folder=FOLDER, text=shlex.join(map(str, sources()))))
    print(f"\nbenchmarks.{quick.module}", flush=True)
    started = time.monotonic()
    try:
        code: int | str = subprocess.run(command, cwd=ROOT, timeout=LIMIT, check=False).returncode
    except subprocess.TimeoutExpired:
        code = f"none within {LIMIT} s"
    print(f"{quick.results}: {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    if code != 0:
        return Outcome(True, 0, [f"it failed: exit code {code}"])
    if not (RESULTS / out.name).exists():
        return Outcome(False, 0, ["it ran; there are no committed results"])
    return compare(
        quick.figures(results(quick.results)), quick.figures(json.loads(out.read_text(encoding="utf-8")))
    )


def start_afresh(name: str) -> None:
    """Remove an earlier run's results but for shards, and lend model and shards to whoever makes its own."""
    for path in FOLDER.glob(f"{name}.*"):
        if path.suffix != ".shards":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if name == "importing" and not (FOLDER / "importing.shards").exists():
        (FOLDER / "importing.shards").symlink_to(FOLDER / "quality.shards")
    if name in ("adapters", "faithfulness"):
        work = FOLDER / f"{name}.work"
        work.mkdir()
        (work / "base").symlink_to(FOLDER / "quality.checkpoint")
        (work / "shards").symlink_to(FOLDER / "quality.shards")


def compare(committed: Figures, quick: Figures) -> Outcome:
    """Compare the figures that both have."""
    both = [name for name in committed if name in quick]
    lines = [
        f"{name}: committed {shown(committed[name])}, now {shown(quick[name])}"
        for name in both
        if not confirms(committed[name], quick[name])
    ]
    return Outcome(False, len(both), lines)


def confirms(committed: float | str | bool, quick: float | str | bool) -> bool:
    """Whether words and facts are equal, and numbers within :data:`TOLERANCE`."""
    if isinstance(committed, str | bool) or isinstance(quick, str | bool):
        return committed == quick
    return math.isclose(committed, quick, rel_tol=TOLERANCE)


def shown(value: float | str | bool) -> str:
    """A figure as text."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> int:
    """Run the chosen benchmarks one after another; 1 if one of them failed."""
    names = [quick.results for quick in BENCHMARKS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "name", nargs="*", choices=[[], *names], metavar="NAME", help=f"results files: {', '.join(names)}"
    )
    wanted = set(parser.parse_args().name) or set(names)
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not (FOLDER / "quality.checkpoint").exists():
        wanted.add("quality")  # others use its model
    started = time.monotonic()
    outcomes = {quick.results: run(quick) for quick in BENCHMARKS if quick.results in wanted}
    print(
        f"\n{sum(outcome.compared for outcome in outcomes.values())} numbers compared in "
        f"{(time.monotonic() - started) / 60:.0f} minutes; not confirmed:"
    )
    for name, outcome in outcomes.items():
        for line in outcome.lines:
            print(f"{name}: {line}")
    for module, reason in LEFT_OUT.items():
        print(f"benchmarks.{module}: left out, it {reason}")
    return int(any(outcome.failed for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
