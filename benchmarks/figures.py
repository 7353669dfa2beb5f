"""The figures of a results file that do not depend on the machine: ratios, verdicts and facts by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks import bench
from benchmarks.cluster.pages import PLAN_BARS, plan_error

Content = dict[str, Any]
Figures = dict[str, float | str | bool]


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
