"""Adaptive solves: torchdiffeq chooses the cells so that the error of each stays within a tolerance.

As ``python -m benchmarks.gradients.adaptive`` shows, a fixed depth with as many evaluations of the field is
as good.
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
    """The error tolerance and evaluation limit of an adaptive solve.

    Raises:
        ValueError: for a tolerance that is not positive, or a limit below 1.
    """

    relative: float = 1e-3
    """The relative tolerance of a step's root mean square error, which may be absolute + relative · |x|."""
    absolute: float = 1e-3
    """The absolute tolerance of a step's root mean square error."""
    max_evaluations: int = 1000
    """Maximum number of field evaluations in one solve."""
    per_sequence: bool = False
    """Solve each sequence by itself, so that hard sequences do not slow down easy ones in the batch."""

    def __post_init__(self) -> None:
        for name in ("relative", "absolute"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} tolerance {getattr(self, name)} must be above 0")
        if self.max_evaluations < 1:
            raise ValueError(f"max_evaluations {self.max_evaluations} must be at least 1")


class TooManyEvaluationsError(RuntimeError):
    """An adaptive solve exceeded its evaluation limit; ``reached`` is the last accepted t."""

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
            # Otherwise torchdiffeq would halve its step for ever, or fail in an assertion.
            raise FloatingPointError(
                f"the state is not finite: it first was not at t = {float(t.detach()):.4g}"
            )
        return slope

    def callback_accept_step(self, t0: Tensor, x: Tensor, dt: Tensor) -> None:
        """Note how far the solve is; torchdiffeq calls this after each accepted step."""
        self.reached = float((t0 + dt).detach())

    callback_accept_step_adjoint = callback_accept_step


def run_adaptively(
    model: Odeformer,
    input_ids: Tensor,
    tolerance: Tolerance,
    method: Literal["dopri5", "bosh3"] = "dopri5",
    gradient: Literal["direct", "adjoint"] = "direct",
) -> Output:
    """Logits of the next token at every position, from an adaptive solve.

    Args:
        model: the model.
        input_ids: token ids [batch, tokens].
        tolerance: the tolerance of the flow; the prelude's layers remain one step each.
        method: torchdiffeq's name of the embedded Runge–Kutta pair.
        gradient: ``direct`` backpropagates through the accepted steps; ``adjoint`` solves the adjoint
            equation backwards to the same tolerance.

    Raises:
        TooManyEvaluationsError: if the evaluation limit is exceeded.
        FloatingPointError: if the state is not finite, naming the t.
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
    """The state at the end of an adaptive solve, and the number of field evaluations for each sequence.

    Args:
        field: the vector field.
        source: the source of W(t); a hypernetwork for gradient ``adjoint``.
        x0: the state at the start, [batch, tokens, width].
        ends: the first and the last t.
        tolerance: as in :func:`run_adaptively`, like the other arguments and the errors.
    """
    times = torch.tensor(ends, dtype=torch.float64, device=x0.device)
    # ``step_t`` makes the solver stop at the end: the last step would go past it, where there is no W(t).
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
