"""Error-controlled solves: torchdiffeq chooses the cells so that each keeps to a tolerance."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

from odeformer.field import Field
from odeformer.gradients.right_hand_side import RightHandSide
from odeformer.hypernetwork import WeightSource
from odeformer.solvers import Adaptive, Tolerance


class TooManyEvaluationsError(RuntimeError):
    """An adaptive solve needed more evaluations than it was given; ``reached``: its last accepted t."""

    def __init__(self, limit: int, reached: float) -> None:
        super().__init__(
            f"the solve has come to t = {reached:.4g} after {limit} evaluations: "
            "raise max_evaluations or the tolerances"
        )
        self.reached = reached


class Limited(RightHandSide):
    """It counts its evaluations and stops at the limit."""

    def __init__(
        self, field: Field, hypernetwork: WeightSource, x0: Tensor, limit: int, start: float
    ) -> None:
        super().__init__(field, hypernetwork, x0)
        self.limit, self.evaluations, self.reached = limit, 0, start

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        if self.evaluations >= self.limit:
            raise TooManyEvaluationsError(self.limit, self.reached)
        self.evaluations += 1
        slope = super().__call__(t, x)
        if not slope.isfinite().all():
            # Else torchdiffeq would halve its step for ever, or stop at an assertion about it.
            raise FloatingPointError(
                f"the state is not finite: it first was not at t = {float(t.detach()):.4g}"
            )
        return slope

    def callback_accept_step(self, t0: Tensor, x: Tensor, dt: Tensor) -> None:
        """Called by torchdiffeq."""
        self.reached = float((t0 + dt).detach())

    callback_accept_step_adjoint = callback_accept_step


def adaptive_solve(
    field: Field,
    hypernetwork: WeightSource,
    x0: Tensor,
    ends: tuple[float, float],
    tolerance: Tolerance,
    solver: Adaptive,
    gradient: str,
) -> tuple[Tensor, tuple[int, ...]]:
    """The state at the last time, and how often the field was evaluated for each sequence.

    Args:
        x0: the state at the first time, [batch, time, width].
        ends: the two times.
        gradient: ``direct``, through the accepted steps; or ``adjoint``, solved backwards to the same
            tolerance.

    Raises:
        TooManyEvaluationsError: with the t that was reached.
        FloatingPointError: naming the t at which the state was no longer finite.
        ValueError: for another gradient method.
    """
    if gradient not in ("direct", "adjoint"):
        raise ValueError(f"an adaptive solver has gradients 'direct' and 'adjoint', not {gradient!r}")
    batches = x0.split(1) if tolerance.per_sequence else (x0,)
    times = torch.tensor(ends, dtype=torch.float64, device=x0.device)
    states, counts = [], []
    for batch in batches:
        limited = Limited(field, hypernetwork, batch, tolerance.max_evaluations, ends[0])
        # Without its own stop at the end the last step would go past it, where there is no W(t).
        precision = {"rtol": tolerance.relative, "atol": tolerance.absolute, "method": solver.method}
        if gradient == "direct":
            path = odeint(limited, batch, times, options={"step_t": times[1:]}, **precision)
        else:
            if not isinstance(hypernetwork, nn.Module):
                raise ValueError("gradient 'adjoint' needs a hypernetwork whose parameters it can find")
            path = odeint_adjoint(
                limited,
                batch,
                times,
                options={"step_t": times[1:]},
                adjoint_options={"step_t": times[:1]},
                adjoint_params=tuple(hypernetwork.parameters()),
                **precision,
            )
        states.append(path[-1])
        counts += [limited.evaluations] * len(batch)
        limited.evaluations = 0  # the backward pass of the adjoint may need as many again
    return torch.cat(states), tuple(counts)
