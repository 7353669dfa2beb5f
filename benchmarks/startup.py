"""How long the command line takes to say its first word: its help, and one line for a mistake.

    python -m benchmarks.startup --json benchmarks/results/startup.json

Each row is the fastest of several starts, one after the other, of a whole process, beside importing Typer and
Rich alone: what both take most of is the same, and the machine may be busy.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

STARTS = 7
BAR = 0.3
"""Seconds more than importing Typer and Rich."""
LIBRARIES = [sys.executable, "-c", "import typer, rich.console, rich.table, rich.progress"]
ODEFORMER = str(Path(sys.executable).parent / "odeformer")
NOBODY = "127.0.0.1:9"
COMMANDS: dict[str, list[str]] = {
    "help": ["--help"],
    "a verb's help": ["finetune", "run", "--help"],
    "no such verb": ["pretran"],
    "no such option": ["pretrain", "tiny", "--dept", "4"],
    "no such preset": ["pretrain", "nowhere"],
    "no such setting": ["pretrain", "tiny", "--set", "model.dpth=4"],
    "a value out of range": ["pretrain", "tiny", "--set", "model.depth=0"],
    "no such shards": ["pretrain", "tiny", "--set", "data.shards=nowhere"],
    "no such text": ["data", "build", "--text", "nowhere.txt", "--out", "out"],
    "no such folder of shards": ["data", "verify", "nowhere"],
    "no such model folder": ["generate", "--model", "nowhere", "x"],
    "no such model to score": ["eval", "--model", "nowhere", "--tasks", "python_text"],
    "no such checkpoint to import": ["models", "import", "--from", "nowhere", "--out", "out"],
    "no MLflow store": ["models", "list"],
    "no MLflow store, a model": ["generate", "--model", "models:/tiny@champion", "x"],
    "no MLflow store, a promotion": ["models", "promote", "models:/tiny@candidate"],
    "no such task file": ["finetune", "run", "nowhere.yaml"],
    "nobody at a pool's address": ["pool", "status", "--address", NOBODY],
    "nobody at a dashboard": ["jobs", "list", "--address", f"http://{NOBODY}"],
    "no such run": ["models", "register", "nowhere"],
    "a text without any letters": ["data", "build", "--text", "empty.txt", "--out", "out"],
}


def main(json_path: Annotated[Path, typer.Option("--json", help="The results file.")]) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "empty.txt").write_text(" \n")
        alone = fastest(LIBRARIES, folder)
        for what, arguments in COMMANDS.items():
            seconds = fastest([ODEFORMER, *arguments], folder)
            row = {"what": what, "command": " ".join(["odeformer", *arguments]), "seconds": round(seconds, 3)}
            rows.append(row | {"more": round(seconds - alone, 3)})
            print(f"{what:32} {seconds:5.2f} s, {seconds - alone:5.2f} more", flush=True)
    content: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "date": time.strftime("%Y-%m-%d"),
        "bar": BAR,
        "libraries": round(alone, 3),
        "rows": rows,
    }
    json_path.write_text(json.dumps(content, indent=2) + "\n")


def in_words(content: dict[str, Any]) -> str:
    """The results as the README has them."""
    [shown, *mistakes] = content["rows"]
    late = [row for row in mistakes if row["more"] > content["bar"]]
    said = f"help {shown['more']:.2f} s more (bar {content['bar']} s)"
    if not late:
        return f"{said}, everything else at most {max(row['more'] for row in mistakes):.2f} s"
    least, most = (choose(row["more"] for row in late) for choose in (min, max))
    return f"{said}; MISSED by {len(late)} of {len(mistakes)} others: {least:.2f} to {most:.2f} s"


def fastest(command: list[str], folder: str) -> float:
    """Seconds from the start of a process to its end."""
    times = []
    for _ in range(STARTS):
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, capture_output=True, check=False)
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    typer.run(main)
