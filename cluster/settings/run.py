"""Folder and seed of a run."""

from __future__ import annotations

from pathlib import Path

from cluster.settings.bounds import Seed
from odeformer.section import Section


class RunSettings(Section):
    """Folder and seed of a run."""

    dir: Path
    """Folder for everything that the run writes. A run in an existing folder is resumed."""
    seed: Seed = 0
    """Seed of the initial weights and of each batch's depth."""
