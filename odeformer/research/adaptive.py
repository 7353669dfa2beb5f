"""Error-controlled solves: torchdiffeq chooses the cells, so that each keeps to a tolerance.

Measured by ``python -m benchmarks.gradients.adaptive``: at equal evaluations of the field a fixed depth is as
good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchdiffeq import odeint, odeint_adjoint

from odeformer.field import Field
from odeformer.gradients.right_hand_side import RightHandSide
from odeformer.hypernetwork import WeightSource
from odeformer.model import Odeformer, Output, SolveOptions


@dataclass(frozen=True)
class Tolerance:
    """How exact a solve must be.

    Raises:
        ValueError: for a tolerance of 0 or less, or no evaluations at all.
    """

    relative: float = 1e-3
    absolute: float = 1e-3
    """The error allowed in a step, root mean square over the state: absolute + relative · |x|."""
    max_evaluations: int = 1000
    """The most evaluations of the field in one solve; one that needs more stops with an error."""
    per_sequence: bool = False
    """Solve each sequence by itself, so that an easy one does not pay for a hard one beside it."""

    def __post_init__(self) -> None:
        for name in ("relative", "absolute"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} tolerance {getattr(self, name)} must be above 0")
        if self.max_evaluations < 1:
            raise ValueError(f"max_evaluations {self.max_evaluations} must be at least 1")


class TooManyEvaluationsError(RuntimeError):
    """An adaptive solve needed more evaluations than it was given; ``reached``: its last accepted t."""

    def __init__(self, limit: int, reached: float) -> None:
        super().__init__(
            f"the solve has come to t = {reached:.4g} after {limit} evaluations: "
            "raise max_evaluations or the tolerances"
        )
        self.reached = reached


class Limited(RightHandSide):
    """A right-hand side that counts its evaluations and stops at a limit."""

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


def run_adaptively(
    model: Odeformer,
    input_ids: Tensor,
    tolerance: Tolerance,
    method: Literal["dopri5", "bosh3"] = "dopri5",
    gradient: Literal["direct", "adjoint"] = "direct",
) -> Output:
    """Logits of the next token at every position, from a solve that a tolerance cuts into cells.

    Args:
        input_ids: token ids [batch, tokens].
        tolerance: for the flow; the prelude's layers are a step each, as ever.
        method: the embedded Runge–Kutta pair, by its name in torchdiffeq.
        gradient: through the accepted steps, or solved backwards to the same tolerance.

    Raises:
        TooManyEvaluationsError: with the t that was reached.
        FloatingPointError: naming the t at which the state was no longer finite.
    """
    start = SolveOptions(model.config.default_solver, "direct" if gradient == "direct" else "checkpoint")
    x, field = model.flow_start(input_ids, options=start)
    _, flow = model.grids()
    x, evaluations = solve_adaptively(
        field, model.hypernetwork, x, (flow[0], flow[-1]), tolerance, method, gradient
    )
    in_prelude = model.config.prelude_layers * model.layer_solver(start.solver).evaluations
    return Output(model.unembed(x), tuple(in_prelude + count for count in evaluations))


def solve_adaptively(
    field: Field,
    source: WeightSource,
    x0: Tensor,
    ends: tuple[float, float],
    tolerance: Tolerance,
    method: str = "dopri5",
    gradient: str = "direct",
) -> tuple[Tensor, tuple[int, ...]]:
    """The state at the last time, and how often the field was evaluated for each sequence.

    Args:
        source: gives W(t); a hypernetwork for gradient ``adjoint``.
        x0: the state at the first time, [batch, tokens, width].
        ends: the two times.

    Other arguments, and errors, are those of :func:`run_adaptively`.
    """
    times = torch.tensor(ends, dtype=torch.float64, device=x0.device)
    # Without its own stop at the end the last step would go past it, where there is no W(t).
    precision = {"rtol": tolerance.relative, "atol": tolerance.absolute, "method": method}
    states, counts = [], []
    for batch in x0.split(1) if tolerance.per_sequence else (x0,):
        limited = Limited(field, source, batch, tolerance.max_evaluations, ends[0])
        if gradient == "direct":
            path = odeint(limited, batch, times, options={"step_t": times[1:]}, **precision)
        else:
            path = odeint_adjoint(
                limited,
                batch,
                times,
                options={"step_t": times[1:]},
                adjoint_options={"step_t": times[:1]},
                adjoint_params=tuple(source.parameters()),  # type: ignore[attr-defined]
                **precision,
            )
        states.append(path[-1])
        counts += [limited.evaluations] * len(batch)
        limited.evaluations = 0  # the backward pass of the adjoint may need as many again
    return torch.cat(states), tuple(counts)
