"""``odeformer report --compare``: two analyses of the same text, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.analysis.analyze import FILE as ANALYSIS
from launcher.analysis.analyze import FORMAT_VERSION as ANALYSIS_FORMAT
from launcher.analysis.files import now, report_of, write_report
from odeformer.analysis.content import (
    Analysis,
    Comparison,
    DepthRow,
    DisturbancePair,
    Disturbances,
    DisturbedText,
    Pair,
    Range,
    Which,
    numbers,
)
from odeformer.files.checks import check_is_there, check_output

if TYPE_CHECKING:
    from cluster.registry.analyses import Logged

FILE = "comparison.json"
REPORT = report_of(FILE, "comparison.html")
FORMAT_VERSION = 2
OLDEST_ANALYSIS = 2
"""The oldest readable format; later formats only add parts, which are compared if both analyses have them."""
PARTS = ("model", "settings", "tokens", "answer", "lyapunov", "depth", "calibration", "clustering", "spectra")


def compare(
    first: str, second: str, out: Path, tracking_uri: str | None = None, *, overwrite: bool = False
) -> Path:
    """Write ``comparison.json`` and ``comparison.html`` into the folder ``out``; return the page's path.

    Args:
        first, second: Folders that ``odeformer analyze`` wrote, their ``analysis.json``, or versions,
            ``models:/…``, with logged analyses.

    Raises:
        ValueError, FileNotFoundError: If an argument is no analysis or has an unreadable format, if the texts
            differ, or if the folder is not empty.
        ConnectionError: If the store does not answer.
    """
    paths = find(first, second, tracking_uri)
    a, b = (read(path) for path in paths)
    check_same_text(a, b, first, second)
    folders = [path if path.is_dir() else path.parent for path in paths]
    check_output(out, folders, overwrite, REPORT)
    content = differences(a, b)

    from launcher.analysis.pages.comparison_page import page

    write_report(out, REPORT, content, page(a, b, content))
    return out / "comparison.html"


def find(first: str, second: str, tracking_uri: str | None) -> tuple[Path, Path]:
    """Paths of two analyses; for versions, the newest analyses of a common text.

    Raises:
        ValueError: If a version has no analysis, or none of the other's text.
    """
    from cluster.names import is_registered
    from cluster.registry import analyses

    versions = filter(is_registered, (first, second))
    logged = {name: _logged(name, tracking_uri) for name in versions}
    if not logged:
        return Path(first), Path(second)

    def texts(name: str) -> list[str]:
        if name in logged:
            return [analysis.text for analysis in logged[name]]
        return [read(Path(name))["text_sha256"][:12]]

    second_texts = texts(second)
    common = [text for text in texts(first) if text in second_texts]
    if not common:
        raise ValueError(
            f"{first} and {second} have no analyses of the same text: odeformer analyze --log one with both"
        )

    def newest(name: str) -> Path:
        if name not in logged:
            return Path(name)
        candidates = [analysis for analysis in logged[name] if analysis.text == common[-1]]
        return analyses.fetch(candidates[-1], ANALYSIS, tracking_uri)

    return newest(first), newest(second)


def _logged(version: str, tracking_uri: str | None) -> list[Logged]:
    from cluster.registry import analyses

    logged = analyses.logged(version, tracking_uri)
    if not logged:
        raise ValueError(f"{version} has no analysis: odeformer analyze --model {version} --log makes one")
    return logged


def read(path: Path) -> Analysis:
    """An analysis, from its folder or its file.

    Raises:
        ValueError, FileNotFoundError: If there is no readable analysis; the message names the file.
    """
    file = path / ANALYSIS if path.is_dir() else path
    check_is_there(file, "a folder that odeformer analyze wrote is expected")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # invalid JSON or UTF-8
        raise ValueError(f"{file} is not JSON: a file that odeformer analyze wrote is expected") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version not in range(OLDEST_ANALYSIS, ANALYSIS_FORMAT + 1):
        raise ValueError(
            f"{file}: format_version is {version}, {OLDEST_ANALYSIS} to {ANALYSIS_FORMAT} is expected: "
            "analyze the text again"
        )
    missing = [part for part in PARTS if part not in content]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}: the analysis is incomplete")
    return content


def check_same_text(a: Analysis, b: Analysis, first: str, second: str) -> None:
    """Refuse two analyses of different tokens.

    Raises:
        ValueError: If the texts or their tokens differ.
    """
    if a["text_sha256"] != b["text_sha256"]:
        raise ValueError(
            f"{first} and {second} are of different texts: analyze the same one with both models"
        )
    if a["tokens"] != b["tokens"]:
        raise ValueError(
            f"{first} and {second} split the text into different tokens: their losses cannot be compared"
        )


def differences(a: Analysis, b: Analysis) -> Comparison:
    """The content of ``comparison.json``: figures of both models, with the difference b − a."""
    import torch

    from odeformer.analysis.statistics import bootstrap

    losses = [torch.tensor(token_losses(analysis), dtype=torch.float64) for analysis in (a, b)]
    change = losses[1] - losses[0]
    figures_a, figures_b = figures(a), figures(b)
    return {
        "format_version": FORMAT_VERSION,
        "made": now(),
        "settings": {
            "difference": "b − a",
            "loss": "nats for each token but the first, each model at the depth of its analysis",
            "interval": "95 %, bootstrap over tokens, as if they were independent",
            "milliseconds": "of each analysis, on the machine where it was made",
            "disturbances": "bits per character that they add, each model at the depth of its analysis; "
            "clearly_less: whose interval lies below the other's",
        },
        "text_sha256": a["text_sha256"],
        "a": {"made": a["made"], "model": a["model"], "settings": a["settings"]},
        "b": {"made": b["made"], "model": b["model"], "settings": b["settings"]},
        "figures": {name: _pair(figures_a[name], figures_b[name]) for name in figures_a},
        "loss_difference": bootstrap(change)._asdict() if len(change) > 1 else None,
        "tokens_better": float((change < 0).double().mean()),
        "depths": depths(a, b),
        "disturbances": disturbances(a, b),
        "token_loss": {
            "a": losses[0].tolist(),
            "b": losses[1].tolist(),
            "difference": [round(value, 6) for value in change.tolist()],
        },
    }


def figures(content: Analysis) -> dict[str, float | None]:
    """The figures of one analysis that a comparison shows; None if the text is too short for one."""
    from launcher.analysis.pages.first_screen import first_guesses

    guesses = first_guesses(content)
    small, large = content["lyapunov"]["noise"]
    losses = token_losses(content)
    return {
        "loss": sum(losses) / len(losses),
        "probability_of_answer": content["answer"]["probabilities"][0],
        "right": None if guesses is None else guesses.right,
        "claimed": None if guesses is None else guesses.claimed,
        "calibration_error": None if guesses is None else guesses.error,
        "noise_relative": small["relative"],
        "changed_by_small_noise": 1 - small["same_answer"],
        "changed_by_large_noise": 1 - large["same_answer"],
        "leading_exponent": content["lyapunov"]["values"][0],
    }


def token_losses(content: Analysis) -> list[float]:
    """Loss of every token but the first, at the depth of the analysis."""
    by_depth = content["depth"]
    return by_depth["token_loss"][by_depth["depths"].index(content["settings"]["depth"])]


def depths(a: Analysis, b: Analysis) -> list[DepthRow]:
    """Loss and cost of both models at each depth that at least one analysis has."""
    columns_a, columns_b = _columns(a), _columns(b)
    rows: list[DepthRow] = []
    for n in sorted({*columns_a, *columns_b}):
        both = zip(columns_a.get(n, [None] * 3), columns_b.get(n, [None] * 3), strict=True)
        loss, flops, milliseconds = (_pair(*values) for values in both)
        rows.append({"depth": n, "loss": loss, "flops": flops, "milliseconds": milliseconds})
    return rows


def _columns(content: Analysis) -> dict[int, list[float | None]]:
    """Loss, FLOPs and milliseconds by depth."""
    rows = content["depth"]
    values = zip(rows["loss"], rows["flops"], rows["milliseconds"], strict=True)
    return {n: list(row) for n, row in zip(rows["depths"], values, strict=True)}


def disturbances(a: Analysis, b: Analysis) -> Disturbances | None:
    """What each disturbance of the text adds to both models; None if neither analysis has any."""
    texts: dict[Which, DisturbedText | None] = {"a": _disturbed_text(a), "b": _disturbed_text(b)}
    lengths = {text["characters"] for text in texts.values() if text is not None}
    if not lengths:
        return None
    # Models with different contexts may have disturbed different parts of the text.
    same_text = len(lengths) == 1
    rises = {"a": _rises(a), "b": _rises(b)}
    rows: list[DisturbancePair] = []
    for label in dict.fromkeys([*rises["a"], *rises["b"]]):
        rise_a, rise_b = rises["a"].get(label), rises["b"].get(label)
        less = _clearly_less(rise_a, rise_b) if same_text else None
        rows.append({"label": label, "a": rise_a, "b": rise_b, "clearly_less": less})
    return {"a": texts["a"], "b": texts["b"], "same_text": same_text, "rows": rows}


def _disturbed_text(content: Analysis) -> DisturbedText | None:
    """The undisturbed text of an analysis at its depth; None for an old format or a short text."""
    robustness, depth = content.get("robustness"), content["settings"]["depth"]
    if robustness is None or robustness["clean"] is None:
        return None
    settings = robustness["settings"]
    clean = robustness["clean"][settings["depths"].index(depth)]
    return {"depth": depth, "characters": settings["characters"], "clean": clean}


def _rises(content: Analysis) -> dict[str, Range]:
    """What each disturbance adds at the depth of the analysis, by label."""
    if _disturbed_text(content) is None:
        return {}
    robustness = content["robustness"]
    index = robustness["settings"]["depths"].index(content["settings"]["depth"])
    return {row["label"]: row["rise"][index] for row in robustness["rows"]}


def _clearly_less(a: Range | None, b: Range | None) -> Which | None:
    """The model with the smaller rise; None if the intervals overlap or one is missing."""
    if a is None or b is None or (a["low"] <= b["high"] and b["low"] <= a["high"]):
        return None
    return "a" if a["mean"] < b["mean"] else "b"


def _pair(a: float | None, b: float | None) -> Pair:
    return {"a": a, "b": b, "difference": None if a is None or b is None else numbers(b - a)}
