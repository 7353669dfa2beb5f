"""What a run without faults comes to."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_runs import SECTIONS
from small_runs import run_workers, small_settings


@pytest.fixture(scope="session")
def untroubled(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """The folder of the same run as :class:`faulty_runs.Command`'s, which nothing interrupted."""
    settings = small_settings(shards, tmp_path_factory.mktemp("untroubled"), **SECTIONS)
    run_workers(settings)
    return settings.run.dir
