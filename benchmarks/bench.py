"""The parts that all benchmarks share: command line, results file, timing, claims and Markdown tables."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from odeformer.files.atomic import new_file

Row = dict[str, Any]
"""A measurement, as a results file stores it."""


def parser(doc: str | None, rounds: int | None = None) -> argparse.ArgumentParser:
    """A command line with ``--json``, and with ``--rounds`` where its default is given."""
    result = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--json", type=Path, required=True, help="results file to write")
    if rounds is not None:
        result.add_argument("--rounds", type=int, default=rounds, help="number of timed repetitions")
    return result


def stamp(*packages: str, note: str = "") -> dict[str, str]:
    """The entries ``machine`` (cores, architecture, versions of ``packages``, a note) and ``date``."""
    parts = [f"{os.cpu_count()} cores", platform.machine(), *(f"{name} {version(name)}" for name in packages)]
    return {"machine": ", ".join([*parts, note] if note else parts), "date": time.strftime("%Y-%m-%d")}


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a results file; a crash leaves the old file or the new one, never a part."""
    with new_file(path) as file:
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


class Results:
    """A results file that grows row by row: a benchmark that is started again measures only missing rows."""

    def __init__(self, path: Path, **entries: Any) -> None:
        """Read the file, or begin one without rows.

        Args:
            entries: further entries of a new file.
        """
        self.path = path
        self.content: dict[str, Any] = (
            json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": [], **entries}
        )

    @property
    def rows(self) -> list[Row]:
        """All rows of the file, in the order in which they were measured."""
        return self.content["rows"]  # type: ignore[no-any-return]

    def find(self, **values: Any) -> Row | None:
        """The first row with these values."""
        return next(iter(select(self.rows, **values)), None)

    def describe(self, shards: Path, **settings: int) -> None:
        """Record the machine, the texts, the tokenizer and the settings that all rows share.

        Raises:
            SystemExit: for a file whose rows have another tokenizer or other settings.
        """
        manifest = json.loads((shards / "manifest.json").read_text(encoding="utf-8"))
        for key, value in {"tokenizer_sha256": manifest["tokenizer_sha256"], **settings}.items():
            if self.content.setdefault(key, value) != value:
                raise SystemExit(
                    f"{self.path} has rows with {key} {self.content[key]}, not {value}: choose another --json"
                )
        digests = "".join(source["sha256"] for source in manifest["sources"])
        self.content |= {
            "machine": stamp("torch")["machine"],
            "train_tokens_available": manifest["splits"]["train"]["tokens"],
            "sources": {
                "files": len(manifest["sources"]),
                "sha256": hashlib.sha256(digests.encode()).hexdigest(),
            },
        }

    def add(self, row: Row) -> None:
        """Append a row with today's date and write the file."""
        self.rows.append({**row, "date": time.strftime("%Y-%m-%d")})
        self.write()

    def write(self, **entries: Any) -> None:
        """Set these entries and write the file."""
        self.content |= entries
        save(self.path, self.content)


def select(rows: Iterable[Row], **values: Any) -> list[Row]:
    """The rows that have all of these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in values.items())]


def print_row(row: Mapping[str, Any]) -> None:
    """Print the entries of a row on one line, as progress."""
    print("  ".join(f"{key} {_text(value)}" for key, value in row.items()), flush=True)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(entry)}" for key, entry in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def in_turn(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call, the ways taking turns; a first round is not counted.

    With ``time.process_time`` as ``clock``, for work on one thread, other users of the machine count less.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = clock()
            way()
            if number:
                seconds[name].append(clock() - started)
    return seconds


def median_ratio(numerators: Iterable[float], denominators: Iterable[float]) -> float:
    """The median of the ratios of paired measurements."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module returns in a new Python process, which shares nothing with this one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class Claim(NamedTuple):
    """A claim with its bar and what was measured, as results files and tables have it."""

    claim: str
    bar: str
    measured: str
    seeds: int
    verdict: str
    """``reached``, ``MISSED``, ``not run``, or nothing for a difference without a bar."""


def judged(claim: str, bar: str, measured: str, reached: bool) -> Claim:
    """A claim with its verdict."""
    return Claim(claim, bar, measured, 1, verdict(reached))


def ratio_claim(claim: str, ratio: float, bar: str) -> Claim:
    """A claim on a ratio with its verdict; the bar is ``≤`` or ``≥``, a space and a number."""
    sign, limit = bar.split()
    reached = ratio <= float(limit) if sign == "≤" else ratio >= float(limit)
    return judged(claim, f"{bar} ×", f"{ratio:.2f} ×", reached)


def verdict(reached: bool) -> str:
    """The word for a bar that was reached or missed."""
    return "reached" if reached else "MISSED"


def print_claims(claims: Iterable[Claim]) -> None:
    """Print a line for each claim."""
    for claim in claims:
        print(f"{claim.verdict:<8} {claim.claim}: {claim.measured} (bar: {claim.bar or 'none'})")


def claims_table(claims: Iterable[Claim], title: str = "claim") -> str:
    """A Markdown table of claims; a claim without a bar has a dash there."""
    lines = [(claim.claim, claim.bar or "–", claim.measured, claim.verdict) for claim in claims]
    return table((title, "bar", "measured", ""), lines)


def table(titles: str | Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; titles in one string are separated by `` | ``."""
    titles = titles.split(" | ") if isinstance(titles, str) else titles
    head = f"| {' | '.join(titles)} |".replace("|  |", "| |")
    return "\n".join([head, "|---" * len(titles) + "|", *(f"| {' | '.join(line)} |" for line in lines)])


def measured_by(module: str, results: str) -> str:
    """The first sentence of a generated part: its command and its results file."""
    return (
        f"Measured by `python -m benchmarks.{module}`; `python -m benchmarks.docs` writes this part from "
        f"`benchmarks/results/{results}.json`."
    )


def measured_on(content: Mapping[str, Any]) -> str:
    """The machine and the date of a results file, or the dates of its rows."""
    dates = [content["date"]] if "date" in content else sorted({row["date"] for row in content["rows"]})
    return f"machine: {content['machine']}; {', '.join(dates)}"


def subplots(*shape: int, **settings: Any) -> tuple[Any, Any]:
    """``matplotlib.pyplot.subplots`` without a display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(*shape, layout="constrained", **settings)
