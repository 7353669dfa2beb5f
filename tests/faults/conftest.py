"""Result of a run without faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_runs import SECTIONS
from small_runs import run_workers, small_settings


@pytest.fixture(scope="session")
def untroubled(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """Folder of an uninterrupted run with the settings of :class:`faulty_runs.Command`."""
    settings = small_settings(shards, tmp_path_factory.mktemp("untroubled"), **SECTIONS)
    run_workers(settings)
    return settings.run.dir
