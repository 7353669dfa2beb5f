"""Start-up of the command line: seconds until it prints its help, or one line for a mistake.

    python -m benchmarks.speed.startup --json benchmarks/results/startup.json

Each row is the fastest of several runs of a whole process, beside the time to import Typer and Rich alone:
both need most of it, and the machine may be busy.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import bench

STARTS = 7
BAR = 0.3
"""Seconds allowed beyond the import of Typer and Rich."""
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


def main() -> None:
    """Measure all commands, print and write them."""
    arguments = bench.parser(__doc__).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "empty.txt").write_text(" \n", encoding="utf-8")
        libraries = fastest(LIBRARIES, folder)
        for what, words in COMMANDS.items():
            seconds = fastest([ODEFORMER, *words], folder)
            row = {"what": what, "command": " ".join(["odeformer", *words]), "seconds": round(seconds, 3)}
            rows.append(row | {"more": round(seconds - libraries, 3)})
            print(f"{what:32} {seconds:5.2f} s, {seconds - libraries:5.2f} more", flush=True)
    content = {**bench.stamp(), "bar": BAR, "libraries": round(libraries, 3), "rows": rows}
    bench.save(arguments.json, content)


def fastest(command: list[str], folder: str) -> float:
    """Seconds from the start of a process to its exit, the least of several runs."""
    times = []
    for _ in range(STARTS):
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, capture_output=True, check=False)
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    main()
