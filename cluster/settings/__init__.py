"""Settings of a pretraining run: pydantic sections of plain values, which travel as JSON."""

from cluster.settings.pretraining import PretrainSettings
from cluster.settings.running import (
    CheckpointSettings,
    ClusterSettings,
    DataSettings,
    RunSettings,
    TrackingSettings,
)
from cluster.settings.training import (
    GuardSettings,
    OptimSettings,
    Steps,
    TrainSettings,
    ZeroSettings,
)

__all__ = [
    "CheckpointSettings",
    "ClusterSettings",
    "DataSettings",
    "GuardSettings",
    "OptimSettings",
    "PretrainSettings",
    "RunSettings",
    "Steps",
    "TrackingSettings",
    "TrainSettings",
    "ZeroSettings",
]
