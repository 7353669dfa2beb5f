"""Learning-rate schedules: functions of the optimizer step alone."""

from __future__ import annotations

import math

from cluster.settings import OptimSettings


def learning_rate(optim: OptimSettings, step: int, steps: int) -> float:
    """The learning rate of optimizer step ``step``, counted from 0, in a run of ``steps``.

    Both schedules warm up linearly and end at ``optim.final`` of the peak. ``cosine`` decays along half a
    cosine over all remaining steps, ``wsd`` (warmup, stable, decay) linearly over the last fraction
    ``optim.decay`` of the steps.
    """
    warmup = max(1, round(optim.warmup * steps))
    if step < warmup:
        return optim.learning_rate * (step + 1) / warmup
    if optim.schedule == "wsd":
        decay = max(1, round(optim.decay * steps))
        above = min(1.0, (steps - step) / decay)
    else:
        progress = (step - warmup) / max(1, steps - warmup)
        above = 0.5 * (1 + math.cos(math.pi * progress))
    return optim.learning_rate * (optim.final + (1 - optim.final) * above)
