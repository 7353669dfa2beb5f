"""Order of convergence: solvers of a trained model must approach one another at their orders as N grows.

    python -m benchmarks.gradients.ode_order --checkpoint benchmarks/results/quality.checkpoint --json OUT

In float64, on a text: the distance of each solver's final state at N cells from a much finer solution by
RK4, relative to that solution's norm, and the slopes between successive N. A plot is drawn beside the JSON.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

import odeformer
from benchmarks import bench
from data.tokenizer import load_tokenizer
from launcher.quickstart.standard_library import sources
from odeformer.gradients.integrate import integrate
from odeformer.model import Odeformer
from odeformer.solvers import SOLVERS

ORDERS = {"euler": 1, "midpoint": 2, "rk4": 4}
CELLS = (8, 16, 32, 64, 128, 256)


def main() -> None:
    """Measure the errors, print, write and plot them."""
    parser = bench.parser(__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="checkpoint that benchmarks.quality.compare saved"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the matmuls are small: a second thread would only wait
    model = odeformer.load(arguments.checkpoint)
    tokenizer = load_tokenizer(arguments.checkpoint)
    text = sources()[0].read_text(encoding="utf-8")
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids[:32]])
    errors = solver_errors(model, ids, CELLS, reference_cells=4 * CELLS[-1])
    result = {
        "model": {
            "D": model.config.depth,
            "K": model.config.basis.size,
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        "relative_error": errors,
        "slopes": {name: slopes(by_cells) for name, by_cells in errors.items()},
        **bench.stamp("torch"),
    }
    bench.save(arguments.json, result)
    plot(errors, arguments.json.with_suffix(".png"))
    for name, by_cells in errors.items():
        line = "  ".join(f"N={n} {error:.1e}" for n, error in by_cells.items())
        print(f"{name:<9} order {ORDERS[name]}: {line}")
        print(f"{'':<9} slopes : {'  '.join(f'{slope:.2f}' for slope in slopes(by_cells))}")


@torch.no_grad()
def solver_errors(
    model: Odeformer, ids: Tensor, cells: Sequence[int], reference_cells: int
) -> dict[str, dict[int, float]]:
    """The relative distance of the final state from RK4's at ``reference_cells``: ``{solver: {N: error}}``.

    Args:
        model: the model, which is converted to float64.
        ids: token ids ``[batch, tokens]``.
    """
    model.double().eval()
    x0, field = model.flow_start(ids)

    def final(solver: str, n: int) -> Tensor:
        grid = model.grids(n)[1]
        return integrate(field, model.hypernetwork, x0, grid, solver=SOLVERS[solver], gradient="direct").x

    exact = final("rk4", reference_cells)
    return {
        name: {n: float((final(name, n) - exact).norm() / exact.norm()) for n in cells} for name in ORDERS
    }


def slopes(errors: dict[int, float]) -> list[float]:
    """The observed order between each N and the next."""
    return [
        math.log(first / second) / math.log(n / m) for (m, first), (n, second) in pairwise(errors.items())
    ]


def plot(errors: dict[str, dict[int, float]], path: Path) -> None:
    """Draw error against N on logarithmic axes, with a dashed line of each solver's order."""
    figure, axes = bench.subplots(figsize=(6, 4.2))
    for name, by_cells in errors.items():
        cells = list(by_cells)
        [line] = axes.loglog(cells, list(by_cells.values()), "o-", label=f"{name} (order {ORDERS[name]})")
        above = [n for n in cells if by_cells[n] > 1e-12]
        anchor = above[-1]
        ideal = [by_cells[anchor] * (anchor / n) ** ORDERS[name] for n in above]
        axes.loglog(above, ideal, "--", color=line.get_color(), alpha=0.5, linewidth=1)
    axes.set_xticks(list(CELLS), [str(n) for n in CELLS])
    axes.minorticks_off()
    axes.set(
        xlabel="cells N",
        ylabel="relative error of the final state",
        title="A trained model under three solvers (float64)",
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
