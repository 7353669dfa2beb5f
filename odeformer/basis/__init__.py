"""Coefficient functions: how K stored weight sets become W(t) = Σ_k c_k(t) B_k.

A basis is a module ``(t [M], h [M]) → coefficients [tensors, M, K]`` in the dtype of t, with its own
coefficients for each of the block's tensors; ``h`` is the width of the cell that t lies in. It is built by
``Basis(tensors, K)``. To add one, write a module with such a class and give it an entry in ``BASES``.
Nothing here imports torch: settings are checked before it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class BasisKind:
    """An entry of ``BASES``."""

    path: str
    """``module:class``, imported when a model is built."""
    size: Literal["K", "D", "1"] = "K"
    """The number of weight sets: free, one for each of the model's layers, or one."""
    least: int = 1
    """The fewest weight sets, where their number is free."""

    def build(self, tensors: int, size: int) -> nn.Module:
        """The coefficients of K = ``size`` weight sets for each of a block's tensors."""
        basis: nn.Module = resolve_name(self.path)(tensors, size)
        return basis

    def check(self, kind: str, size: int, depth: int) -> None:
        """Refuse a number of weight sets that the kind does not have in a model of depth D.

        Raises:
            ValueError: naming the number it needs.
        """
        needed = {"D": depth, "1": 1}.get(self.size, max(size, self.least))
        if size != needed:
            raise ValueError(f"basis.kind {kind!r} needs basis.size {needed} at depth {depth}, not {size}")


BASES = {
    "smooth_mlp": BasisKind("odeformer.basis.smooth_mlp:SmoothMLP"),
    "linear": BasisKind("odeformer.basis.linear:Linear"),
    "chebyshev": BasisKind("odeformer.basis.chebyshev:Chebyshev"),
    "fourier_mlp": BasisKind("odeformer.basis.fourier_mlp:FourierMLP", least=2),
    "none": BasisKind("odeformer.basis.independent:Independent", size="D"),
    "constant": BasisKind("odeformer.basis.independent:Independent", size="1"),
}


def basis_named(name: str) -> BasisKind:
    """The kind of basis of that name.

    Raises:
        ValueError: naming the kinds there are.
    """
    if name not in BASES:
        raise ValueError(f"basis.kind {name!r} is unknown; there are: {', '.join(BASES)}")
    return BASES[name]
