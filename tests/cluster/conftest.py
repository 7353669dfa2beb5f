"""Settings of small runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import small_settings

from cluster.settings import PretrainSettings


@pytest.fixture
def settings(shards: Path, tmp_path: Path) -> Callable[..., PretrainSettings]:
    """A factory of small, checked pretraining settings: ``settings(section={key: value})``."""

    def make(**sections: dict[str, Any]) -> PretrainSettings:
        return small_settings(shards, tmp_path, **sections)

    return make
