"""What a run does about losses and gradients that are not finite."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from odeformer.section import Section


class GuardSettings(Section):
    """Protection against steps whose loss or gradient is not finite.

    They are skipped, and too many in a row cause a rollback.
    """

    max_skipped: int = Field(default=5, ge=1)
    """Consecutive skipped steps that cause a rollback to the last checkpoint; the data is not rolled back."""
    max_rollbacks: int = Field(default=2, ge=0)
    """Maximum number of rollbacks to the same checkpoint before the run stops."""
    on_spike: Literal["event", "skip"] = "event"
    """Reaction to a loss spike: ``event`` only logs it, ``skip`` also skips the step."""
    spike_window: int = Field(default=100, ge=10)
    """Number of recent losses to compare each loss with when detecting spikes."""
    spike_deviations: float = Field(default=10.0, gt=0)
    """A loss this many standard deviations (estimated from the MAD) above the window's median is a spike."""
