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
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks import bench
from benchmarks.adapters.pages import claims as adapter_claims
from benchmarks.analysis.pages import cost_claims
from benchmarks.cluster.pages import PLAN_BARS, plan_error
from benchmarks.cluster.pool import BAR
from benchmarks.docs import RESULTS, ROOT, results
from benchmarks.gradients.pages import claims as gradient_claims

TOLERANCE = 0.25
"""The largest relative difference of a ratio: single rounds beside other work scatter by as much."""
LIMIT = 900
"""Seconds after which a benchmark is stopped."""
FOLDER = ROOT / "runs/bench-quick"
Content = dict[str, Any]
Figures = dict[str, float | str | bool]
"""Ratios, verdicts and facts by name."""


def ratios(content: Any, name: str = "") -> Figures:
    """All facts and all numbers under a key with “ratio”, named by the keys on the way."""
    if isinstance(content, bool) or (isinstance(content, float | int) and "ratio" in name):
        return {name: content}
    if isinstance(content, dict):
        content = {k: v for k, v in content.items() if k not in ("low", "high")}  # of an interval
        return _joined((ratios(value, f"{name} {key}".strip()) for key, value in content.items()))
    if isinstance(content, list) and content and isinstance(content[0], dict):
        return _joined(ratios(row, f"{name} {_words(row)}") for row in content)
    return {}


def _words(row: Content) -> str:
    """What a row is about: its words and its whole numbers that are settings."""
    settings = ("width", "depth", "batch", "stage", "restart_minutes", "gpus")
    return " ".join(
        str(value)
        for key, value in row.items()
        if (isinstance(value, str) and key != "date") or key in settings
    )


def _joined(parts: Iterator[Figures]) -> Figures:
    return {name: value for part in parts for name, value in part.items()}


def verdicts(claims: list[bench.Claim]) -> Figures:
    """Whether each bar is reached."""
    return {claim.claim: claim.verdict for claim in claims}


def losses_by_depth(content: Content) -> Figures:
    """The validation loss at each N over that at N = D, at the middle learning rate."""
    rows = bench.select(content["rows"], seed=0, learning_rate=3e-3)
    return {
        f"{row['name']}: loss at N = {depth} over N = {row['D']}": loss
        / row["validation_loss"][str(row["D"])]
        for row in rows
        for depth, loss in row["validation_loss"].items()
    }


def losses_of_points(content: Content) -> Figures:
    """The loss at each fixed N over that at N = D."""
    points = bench.select(content["points"], way="fixed")
    [at_depth] = bench.select(points, setting=f"N = {content['D']}")
    return {f"loss at {point['setting']} over N = D": point["loss"] / at_depth["loss"] for point in points}


def loss_differences(content: Content) -> Figures:
    """Whether each format's loss is within 0.02 nats of fp32's; the ratios of its bytes and speeds."""
    figures: Figures = {}
    for row in content["losses"]:
        of_model = {key: row[key] for key in ("flavour", "depth")}
        [whole] = bench.select(content["losses"], **of_model, format="fp32")
        name = " ".join(str(row[key]) for key in ("flavour", "depth", "format"))
        figures[f"{name}: loss"] = bench.verdict(abs(row["loss_difference"]) <= 0.02)
        figures[f"{name}: bytes over fp32's"] = row["bytes"] / whole["bytes"]
    return figures | ratios(content["speeds"])


def planned(content: Content) -> Figures:
    """Whether each estimate is within its bar."""
    figures: Figures = {}
    for row in content["rows"]:
        run = ", ".join(f"{key} {row[key]}" for key in row if key not in ("said", "found", "date"))
        figures[run] = bench.verdict(abs(plan_error(row)) <= PLAN_BARS[row["kind"]])
    return figures


def simulated(content: Content) -> Figures:
    """The fraction of its time that each long run trains."""
    return {
        f"{row['run']}, restart {row['restart_minutes']} min": row["training"]["median"]
        for row in bench.select(content["rows"], kind="run")
    }


class Quick(NamedTuple):
    """The quick form of a benchmark."""

    module: str
    """Its module in ``benchmarks``."""
    results: str
    """The name of its results file."""
    options: str = ""
    """Its further arguments; ``{folder}`` is the folder of all results."""
    figures: Callable[[Content], Figures] = ratios
    """What is compared."""


CHECKPOINT, SHARDS = "{folder}/quality.checkpoint", "{folder}/quality.shards"
"""What the benchmark of quality leaves: a trained model with K = D/2, and the text it was trained on."""
QUALITY = '--tokens 300000 --only "ordinary, D layers" "K = D" "K = D/2, any depth"'
BENCHMARKS = (
    Quick("quality.compare", "quality", QUALITY, losses_by_depth),
    Quick("gradients.methods", "gradients", "--quick", lambda content: verdicts(gradient_claims(content))),
    Quick(
        "gradients.ode_order",
        "ode_order",
        f"--checkpoint {CHECKPOINT}",
        lambda content: {f"order of {name}": slopes[-1] for name, slopes in content["slopes"].items()},
    ),
    Quick(
        "gradients.adaptive",
        "adaptive",
        f"--checkpoint {CHECKPOINT} --shards {SHARDS}",
        losses_of_points,
    ),
    Quick("quality.harness", "harness", f"--model {CHECKPOINT} --depth 8 --limit 20"),
    Quick(
        "quality.importing",
        "importing",
        "--tokens 100000 --extra 20000 --seeds 1",
        lambda content: {claim["claim"]: claim["verdict"] for claim in content["claims"]},
    ),
    Quick("speed.generation", "generation", "--rounds 1 --new-tokens 64"),
    Quick("speed.throughput", "throughput", "--rounds 2"),
    Quick("speed.gpu", "gpu", "--rehearse"),
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
    Quick("speed.serving", "serving", "--rounds 1 --requests 100"),
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
    Quick("cluster.overhead", "overhead", "--rounds 1"),
    Quick(
        "cluster.pool",
        "pool",
        figures=lambda content: {
            f"first step within {BAR} s": bench.verdict(content["to_first_step"]["median"] <= BAR)
        },
    ),
    Quick("cluster.pool_sharing", "pool_sharing"),
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
    command += shlex.split(quick.options.format(folder=FOLDER))
    print(f"\n{shlex.join(command[1:])}", flush=True)
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
    return compare(quick.figures(results(quick.results)), quick.figures(json.loads(out.read_text())))


def start_afresh(name: str) -> None:
    """Remove an earlier run's results but for shards, and lend the trained model to whoever needs a base."""
    for path in FOLDER.glob(f"{name}.*"):
        if path.suffix != ".shards":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
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
