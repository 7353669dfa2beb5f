"""Whether a run compiles the vector field with ``torch.compile``."""

from __future__ import annotations

import os
import shutil
from typing import NamedTuple

from cluster.settings import TrainSettings
from cluster.training.utilization import step_flops
from odeformer.model import Odeformer

PAYS_FROM = {"cpu": 1e14, "cuda": 2e16}
"""FLOPs of one worker from which compiling, which takes about a minute, pays: half an hour of a slow core,
some minutes of a GPU. Not a time, so that a run decides the same whenever it is resumed."""


class Decision(NamedTuple):
    """Whether a run compiles, and why."""

    compiled: bool
    reason: str


def decide(train: TrainSettings, model: Odeformer, device: str, workers: int) -> Decision:
    """Choose by ``train.compile`` and by what this machine has.

    Args:
        model: the model, or one with its interface.
        device: ``cpu`` or ``cuda``.
        workers: the number of workers that share the steps.

    Raises:
        RuntimeError: for ``compile: on`` on a machine without a compiler.
    """
    decision = wanted(train, model, device, workers)
    missing = missing_compiler() if decision.compiled else None
    if missing and train.compile == "on":
        raise RuntimeError(f"train.compile is on, but {missing}")
    return Decision(False, f"not compiled: {missing}") if missing else decision


def wanted(train: TrainSettings, model: Odeformer, device: str, workers: int) -> Decision:
    """Choose as :func:`decide` does for a machine with a compiler."""
    if train.compile != "auto":
        on = train.compile == "on"
        return Decision(on, f"{'' if on else 'not '}compiled, as train.compile is {train.compile}")
    if train.gradient == "adjoint":
        return Decision(False, "not compiled: gradient adjoint works without")
    config = model.config
    length = config.context_length or 0
    flops = train.steps * step_flops(model, [config.depth], train.global_batch, length) / workers
    if flops < PAYS_FROM[device]:
        return Decision(False, "not compiled: too short a run for it to pay")
    return Decision(True, "compiled: the run is long enough for it to pay")


def missing_compiler() -> str | None:
    """What ``torch.compile`` lacks on this machine; None if nothing."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler {compiler!r}: install g++, or name another one in CXX"
    return None
