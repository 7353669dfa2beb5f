"""The model registry: the only hand-over between pretraining, fine-tuning and use."""

from cluster.registry.about import BASE_DIGEST, BASE_NAME, BASE_VERSION, DIGEST, About
from cluster.registry.depth_table import OWN_DEPTH
from cluster.registry.fetching import Loaded, fetch, load
from cluster.registry.registering import register
from cluster.registry.versions import Version, resolve, versions

__all__ = [
    "BASE_DIGEST",
    "BASE_NAME",
    "BASE_VERSION",
    "DIGEST",
    "OWN_DEPTH",
    "About",
    "Loaded",
    "Version",
    "fetch",
    "load",
    "register",
    "resolve",
    "versions",
]
