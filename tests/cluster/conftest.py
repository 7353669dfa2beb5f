"""Settings of small runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.settings import PretrainSettings

Overrides = dict[str, dict[str, Any]]


@pytest.fixture
def settings(shards: Path, tmp_path: Path) -> Callable[..., PretrainSettings]:
    """A factory of small, checked pretraining settings: ``settings(section={key: value})``."""
    from cluster import pretrain

    def make(**sections: dict[str, Any]) -> PretrainSettings:
        content: Overrides = {
            "model": {"width": 32, "heads": 2, "depth": 4, "rotary_fraction": 0.5, "basis": {"size": 2}},
            "data": {"shards": str(shards), "sequence_length": 32},
            "train": {
                "steps": 6,
                "global_batch": 8,
                "micro_batch": 2,
                "depths": [2, 4, 4, 8],
                "validate_every": 3,
                "validation_sequences": 7,
            },
            "optim": {"learning_rate": 5e-3},
            "zero": {"stage": 1, "param_persistence_threshold": 0},
            "cluster": {"workers": 2},
            "checkpoint": {"every": 3, "keep": 3},
            "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db"},
            "run": {"dir": tmp_path / "run"},
        }
        for section, values in sections.items():
            content[section] = {**content.get(section, {}), **values}
        return pretrain.check(PretrainSettings.model_validate(content))

    return make
