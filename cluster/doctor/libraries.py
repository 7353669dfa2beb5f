"""Check of torch and DeepSpeed, which are imported in a separate process that may hang or die."""

from __future__ import annotations

import json
import subprocess
import sys

from cluster.doctor.finding import Finding

IMPORT_SECONDS = 60.0
REINSTALL = "make install, or pip install -c constraints.txt -e ."


def look() -> list[Finding]:
    """Check that torch and DeepSpeed can be imported, and which devices they find."""
    # As a module: the current folder may hold a data.py.
    command = [sys.executable, "-m", "cluster.doctor.import_probe"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=IMPORT_SECONDS, encoding="utf-8"
        )
    except subprocess.TimeoutExpired:
        found = f"importing it takes longer than {IMPORT_SECONDS:.0f} s"
        remedy = "remove stale extension locks (see below), or check for a file system that hangs"
        return [Finding("DeepSpeed", "failed", found, remedy)]
    lines = done.stdout.splitlines()
    # DeepSpeed prints messages of its own, too.
    parts = [json.loads(line) for line in lines if line.startswith('{"name": ')]
    if not parts:
        last = (done.stderr.strip() or f"ended with {done.returncode}").splitlines()[-1]
        return [Finding("torch", "failed", last, REINSTALL)]
    return [_finding(**part) for part in parts]


def _finding(name: str, found: str, failed: str = "") -> Finding:
    if failed:
        return Finding(name, "failed", failed, REINSTALL)
    return Finding(name, "ok", found)
