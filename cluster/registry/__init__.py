"""The model registry: the only hand-over between pretraining, fine-tuning and use."""

from cluster.registry.about import About
from cluster.registry.depth_table import OWN_DEPTH
from cluster.registry.fetching import Loaded, fetch, load
from cluster.registry.registration import register_version
from cluster.registry.versions import Version, resolve, versions

__all__ = [
    "OWN_DEPTH",
    "About",
    "Loaded",
    "Version",
    "fetch",
    "load",
    "register_version",
    "resolve",
    "versions",
]
