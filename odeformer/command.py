"""The start of the command ``odeformer``, before anything is imported whose name other projects use, too."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

COMMON_NAMES = ("data", "cluster", "launcher")
"""Names of our packages that a package on somebody's ``PYTHONPATH`` may have, too."""


def main() -> None:
    """Run the command line with our own packages."""
    put_ours_first()
    importlib.import_module("launcher.cli.main").main()


def put_ours_first() -> None:
    """Put the folder of our packages at the front of the import path, if others come before them.

    Processes that this one starts inherit it.
    """
    root = Path(__file__).parents[1]
    for name in COMMON_NAMES:
        found = PathFinder.find_spec(name)
        if found is not None and found.origin != str(root / name / "__init__.py"):
            sys.path.insert(0, str(root))
            given = os.environ.get("PYTHONPATH")
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), given)))
            return
