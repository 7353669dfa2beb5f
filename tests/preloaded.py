"""What test processes would import each anew; the fork server of :mod:`forked` imports it once."""

import os
from importlib import import_module

from cluster.pool.warm import MODULES, PRELOADING

BEFORE = dict(os.environ)
USED = (
    *(
        "cluster.pretrain",
        "cluster.training.validation",
        "data.shards",
        "launcher.cli.main",
        "launcher.terminal.pretrain_watcher",
    ),
    *("ray.train.torch", "rich.progress"),
)
for name in (*MODULES, *USED):
    import_module(name)
import_module("cluster.tracking.store").import_all()
for name in PRELOADING:
    import_module(name).preload()

SET_BY_IMPORTS = {name: value for name, value in os.environ.items() if BEFORE.get(name) != value}
"""Environment variables that a copy has too, where its own environment does not say otherwise."""
