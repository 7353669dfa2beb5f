"""Settings of a pretraining run, a file for each section.

The docstring under a field is its documentation, also for the user.
"""

from cluster.settings.bounds import Seed, Steps
from cluster.settings.checkpoint import CheckpointSettings
from cluster.settings.cluster import ClusterSettings
from cluster.settings.data import DataSettings
from cluster.settings.evaluate import EvaluateSettings
from cluster.settings.guard import GuardSettings
from cluster.settings.optim import OptimSettings
from cluster.settings.pretrain import PretrainSettings
from cluster.settings.run import RunSettings
from cluster.settings.tracking import RegisterSettings, TrackingSettings
from cluster.settings.train import TrainSettings
from cluster.settings.zero import ZeroSettings

__all__ = [
    "CheckpointSettings",
    "ClusterSettings",
    "DataSettings",
    "EvaluateSettings",
    "GuardSettings",
    "OptimSettings",
    "PretrainSettings",
    "RegisterSettings",
    "RunSettings",
    "Seed",
    "Steps",
    "TrackingSettings",
    "TrainSettings",
    "ZeroSettings",
]
