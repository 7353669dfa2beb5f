"""Run the tests, and say at the end what they took.

python tests/suite.py normal          # make lint, then all tests that are not slow
python tests/suite.py busy            # those tests three times, beside four loops on the same cores
python tests/suite.py slow            # the tests that take minutes
python tests/suite.py slow --third 2  # the quick start, and every third file of the others
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LINT = ("make", "--no-print-directory", "lint")
PYTEST = (sys.executable, "-m", "pytest", "--durations", "10")
# A file's tests stay together, on one of two workers; tests/conftest.py puts the longest files first. A
# worker that dies ends the run and is named: a new one in its place would wait for ever (pytest-xdist 1378).
TWO_AT_A_TIME = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--max-worker-restart", "0")
NORMAL = (*PYTEST, "-m", "not slow", *TWO_AT_A_TIME)
# Hundreds of processes import our modules, so what one has compiled is there for the others.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
SLOW, QUICK_START = "pytest.mark.slow", "tests/test_quickstart.py"
BUSY_LOOPS, BUSY_RUNS = 4, 3


def main() -> int:
    """Run what is asked for; 1 if any of it fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=("normal", "busy", "slow"))
    parser.add_argument("--third", type=int, choices=(1, 2, 3), help="of the slow tests; all when not given")
    arguments = parser.parse_args()
    if arguments.which == "normal":
        return run(LINT, NORMAL)
    if arguments.which == "busy":
        with busy_loops():
            return max(run(NORMAL) for _ in range(BUSY_RUNS))
    return run_slow(arguments.third)


def run_slow(third: int | None) -> int:
    """The quick start, and the other slow tests or a third of their files; say which at both ends."""
    files = [str(path) for path in sorted(Path("tests").rglob("test_*.py")) if SLOW in path.read_text()]
    files.remove(QUICK_START)
    chosen = files if third is None else files[third - 1 :: 3]
    left_out = "".join(f"\n  not run: {name}" for name in files if name not in chosen)
    said = f"slow tests of {len(chosen)} files and {QUICK_START}" + "".join(f"\n  {name}" for name in chosen)
    print(said + left_out, flush=True)
    # A quick start fills the machine: nothing else beside it. Most of the others wait for something to be
    # noticed: two of them fit into one machine.
    slow = (*PYTEST, "-m", "slow")
    failed = run((*slow, QUICK_START), (*slow, *TWO_AT_A_TIME, *chosen))
    print(said + left_out, flush=True)
    return failed


def run(*commands: Sequence[str]) -> int:
    """Run commands one after another, to the first that fails; print what they took."""
    wall, busy = time.monotonic(), busy_seconds()
    failed = any(subprocess.run(command, env=ENVIRONMENT).returncode for command in commands)
    wall, busy = time.monotonic() - wall, busy_seconds() - busy
    verdict = "failed" if failed else "passed"
    print(f"{verdict} after {wall:.0f} s; this machine's cores worked for {busy:.0f} s meanwhile", flush=True)
    return int(failed)


def busy_seconds() -> float:
    """Core-seconds that this machine has worked since it was started, for whatever process."""
    import psutil

    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


@contextmanager
def busy_loops() -> Iterator[None]:
    """Processes that compute for nothing, for as long as the block runs."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY_LOOPS)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    sys.exit(main())
