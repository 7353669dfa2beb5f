"""Error-controlled solvers: a tolerance chooses the cells, instead of a depth N."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Adaptive:
    """An embedded Runge–Kutta pair with step size control, under its name in torchdiffeq."""

    method: str


@dataclass(frozen=True)
class Tolerance:
    """How exact a solve must be; it stands where a depth would.

    Raises:
        ValueError: for a tolerance of 0 or less, or no evaluations at all.
    """

    relative: float = 1e-3
    absolute: float = 1e-3
    """The error allowed in a step, root mean square over the state: absolute + relative · |x|."""
    max_evaluations: int = 1000
    """Of the field, in one solve; one that needs more stops with an error."""
    per_sequence: bool = False
    """Solve each sequence by itself, so that an easy one does not pay for a hard one beside it."""

    def __post_init__(self) -> None:
        for name in ("relative", "absolute"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} tolerance {getattr(self, name)} must be above 0")
        if self.max_evaluations < 1:
            raise ValueError(f"max_evaluations {self.max_evaluations} must be at least 1")
