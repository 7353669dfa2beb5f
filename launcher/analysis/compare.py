"""``odeformer report --compare``: two analyses of the same text, side by side."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.analysis.analyze import FILE as ANALYSIS
from launcher.analysis.analyze import FORMAT_VERSION as ANALYSIS_FORMAT

if TYPE_CHECKING:
    from cluster.registry.analyses import Logged

FILE = "comparison.json"
FORMAT_VERSION = 2
OLDEST_ANALYSIS = 2
"""Analyses of later formats only have more in them, which is compared where both have it."""
PARTS = ("model", "settings", "tokens", "answer", "lyapunov", "depth", "calibration", "clustering", "spectra")


def compare(
    first: str, second: str, out: Path, tracking_uri: str | None = None, *, overwrite: bool = False
) -> Path:
    """Write ``comparison.json`` and ``comparison.html`` into the folder ``out``; the page's path.

    Args:
        first, second: folders that ``odeformer analyze`` wrote, their ``analysis.json``, or versions,
            ``models:/…``, with which it logged them.

    Raises:
        ValueError, FileNotFoundError: for what is no analysis, is one of another format, or of another text;
            for a folder that is not empty.
        ConnectionError: when the store does not answer.
    """
    from odeformer.files.atomic import new_folder
    from odeformer.files.checks import check_output

    paths = find(first, second, tracking_uri)
    a, b = (read(path) for path in paths)
    check_same_text(a, b, first, second)
    folders = [path if path.is_dir() else path.parent for path in paths]
    check_output(out, folders, overwrite)
    content = differences(a, b)
    with new_folder(out) as folder:
        from launcher.analysis.pages.comparison_page import page

        written = json.dumps(content, allow_nan=False, ensure_ascii=False)
        (folder / FILE).write_text(written + "\n", encoding="utf-8")
        (folder / "comparison.html").write_text(page(a, b, content), encoding="utf-8")
    return out / "comparison.html"


def find(first: str, second: str, tracking_uri: str | None) -> tuple[Path, Path]:
    """Where the two analyses are; of versions the newest ones that are of the same text.

    Raises:
        ValueError: when nothing was logged with a version, or nothing of the other's text.
    """
    from cluster.registry import analyses

    logged = {
        given: _logged(given, tracking_uri) for given in (first, second) if given.startswith("models:/")
    }
    if not logged:
        return Path(first), Path(second)
    texts = {
        given: [analysis.text for analysis in logged[given]]
        if given in logged
        else [read(Path(given))["text_sha256"][:12]]
        for given in (first, second)
    }
    same = [text for text in texts[first] if text in texts[second]]
    if not same:
        raise ValueError(
            f"{first} and {second} have no analyses of the same text: odeformer analyze --log one with both"
        )

    def newest(given: str) -> Path:
        if given not in logged:
            return Path(given)
        found = [analysis for analysis in logged[given] if analysis.text == same[-1]]
        return analyses.fetch(found[-1], ANALYSIS, tracking_uri)

    return newest(first), newest(second)


def _logged(version: str, tracking_uri: str | None) -> list[Logged]:
    from cluster.registry import analyses

    found = analyses.logged(version, tracking_uri)
    if not found:
        raise ValueError(f"{version} has no analysis: odeformer analyze --model {version} --log makes one")
    return found


def read(given: Path) -> dict[str, Any]:
    """An analysis, from its folder or its file.

    Raises:
        ValueError, FileNotFoundError: naming the file.
    """
    from odeformer.files.checks import check_is_there

    file = given / ANALYSIS if given.is_dir() else given
    check_is_there(file, "a folder that odeformer analyze wrote is expected")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # JSON's and UTF-8's
        raise ValueError(f"{file} is not JSON: a file that odeformer analyze wrote is expected") from None
    form = content.get("format_version") if isinstance(content, dict) else None
    if form not in range(OLDEST_ANALYSIS, ANALYSIS_FORMAT + 1):
        raise ValueError(
            f"{file}: format_version is {form}, {OLDEST_ANALYSIS} to {ANALYSIS_FORMAT} is expected: "
            "analyze the text again"
        )
    lacking = [part for part in PARTS if part not in content]
    if lacking:
        raise ValueError(f"{file} lacks {', '.join(lacking)}: it is no whole analysis")
    return content


def check_same_text(a: dict[str, Any], b: dict[str, Any], first: str, second: str) -> None:
    """Refuse two analyses whose numbers are not of the same tokens.

    Raises:
        ValueError: saying how they differ.
    """
    if a["text_sha256"] != b["text_sha256"]:
        raise ValueError(
            f"{first} and {second} are of different texts: analyze the same one with both models"
        )
    if a["tokens"] != b["tokens"]:
        raise ValueError(
            f"{first} and {second} cut the text into different tokens: "
            "losses for each token cannot be set side by side"
        )


def differences(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """What ``comparison.json`` holds: both models, and each figure of both with the difference b − a."""
    import torch

    from odeformer.analysis.statistics.interval import bootstrap

    losses = [torch.tensor(token_losses(of), dtype=torch.float64) for of in (a, b)]
    change = losses[1] - losses[0]
    return {
        "format_version": FORMAT_VERSION,
        "made": time.strftime("%Y-%m-%d %H:%M:%S %z"),
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
        "figures": {
            name: _pair(one, other)
            for (name, one), other in zip(figures(a).items(), figures(b).values(), strict=True)
        },
        "loss_difference": bootstrap(change)._asdict() if len(change) > 1 else None,
        "tokens_better": float((change < 0).double().mean()),
        "depths": depths(a["depth"], b["depth"]),
        "disturbances": disturbances(a, b),
        "token_loss": {
            "a": losses[0].tolist(),
            "b": losses[1].tolist(),
            "difference": [round(value, 6) for value in change.tolist()],
        },
    }


def figures(content: dict[str, Any]) -> dict[str, float | None]:
    """What a comparison looks at of one analysis, by name; None where a text is too short for it."""
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


def token_losses(content: dict[str, Any]) -> list[float]:
    """Of every token but the first, at the depth of the analysis."""
    of = content["depth"]
    losses: list[float] = of["token_loss"][of["depths"].index(content["settings"]["depth"])]
    return losses


def depths(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    """Loss and cost of both at every N that one of them has."""

    def at(of: dict[str, Any], name: str, depth: int) -> float | None:
        return of[name][of["depths"].index(depth)] if depth in of["depths"] else None

    return [
        {"depth": n}
        | {name: _pair(at(a, name, n), at(b, name, n)) for name in ("loss", "flops", "milliseconds")}
        for n in sorted({*a["depths"], *b["depths"]})
    ]


def disturbances(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any] | None:
    """What each disturbance of the text adds to both; None where neither was looked at with any."""
    both = {"a": _disturbed(a), "b": _disturbed(b)}
    there = [one for one in both.values() if one is not None]
    if not there:
        return None
    # Contexts of other lengths leave other parts of a text, and so other disturbed ones.
    same_text = len({one["characters"] for one in there}) == 1
    rises = {who: {} if one is None else one.pop("rises") for who, one in both.items()}
    rows = []
    for label in dict.fromkeys([*rises["a"], *rises["b"]]):
        pair = {who: rises[who].get(label) for who in "ab"}
        less = _clearly_less(pair["a"], pair["b"]) if same_text else None
        rows.append({"label": label, **pair, "clearly_less": less})
    return {**both, "same_text": same_text, "rows": rows}


def _disturbed(content: dict[str, Any]) -> dict[str, Any] | None:
    """Of one analysis, at its depth; None of an older one, or of a text that was too short."""
    of, depth = content.get("robustness"), content["settings"]["depth"]
    if of is None or not of["rows"]:
        return None
    at = of["settings"]["depths"].index(depth)
    return {
        "depth": depth,
        "characters": of["settings"]["characters"],
        "clean": of["clean"][at],
        "rises": {row["label"]: row["rise"][at] for row in of["rows"]},
    }


def _clearly_less(a: dict[str, float] | None, b: dict[str, float] | None) -> str | None:
    """Which of two rises is the smaller one; None where their intervals overlap, or one is not there."""
    from odeformer.analysis.statistics.interval import Interval

    if a is None or b is None or Interval(**a).overlaps(Interval(**b)):
        return None
    return "a" if a["mean"] < b["mean"] else "b"


def _pair(a: float | None, b: float | None) -> dict[str, float | None]:
    """Both, and their difference where there are both."""
    return {"a": a, "b": b, "difference": None if a is None or b is None else float(f"{b - a:.6g}")}
