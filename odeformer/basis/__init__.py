"""Coefficient functions c_k, which mix K stored weight sets into W(t) = Σ_k c_k(t) B_k.

A basis is an ``nn.Module``, built by ``Basis(tensors, K)``, that maps times t [M] and cell widths h [M] to
coefficients [tensors, M, K] in the dtype of t: one set of coefficients for each of the block's tensors. To
add one, write such a class and give it an entry in ``BASES``. This module does not import torch, so that
settings can be checked without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Literal

from odeformer.section import look_up

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class BasisKind:
    """A kind of basis: its class and the number of weight sets that it needs."""

    path: str
    """``module:class`` of the basis, imported when a model is built."""
    size: Literal["K", "D", "1"] = "K"
    """Number of weight sets: any K, one per layer (D), or 1."""
    least: int = 1
    """Minimum number of weight sets, for size K."""

    def build(self, tensors: int, size: int) -> nn.Module:
        """A new basis with K = ``size`` coefficients for each of ``tensors`` tensors."""
        basis: nn.Module = resolve_name(self.path)(tensors, size)
        return basis

    def check(self, kind: str, size: int, depth: int) -> None:
        """Refuse a number of weight sets that this kind cannot have in a model of depth D.

        Raises:
            ValueError: naming the number it needs.
        """
        exact = {"D": depth, "1": 1}.get(self.size)
        is_wrong = size < self.least if exact is None else size != exact
        if is_wrong:
            needed = exact or f"at least {self.least}"
            raise ValueError(f"basis.kind {kind!r} needs basis.size {needed} at depth {depth}, not {size}")


BASES = {
    "smooth_mlp": BasisKind("odeformer.basis.smooth_mlp:SmoothMLP"),
    "linear": BasisKind("odeformer.basis.fixed:Linear"),
    "none": BasisKind("odeformer.basis.fixed:Independent", size="D"),
    "constant": BasisKind("odeformer.basis.fixed:Independent", size="1"),
    "fourier_mlp": BasisKind("odeformer.basis.fourier_mlp:FourierMLP", least=2),
}


def basis_named(name: str) -> BasisKind:
    """The kind of basis of that name, see :func:`odeformer.section.look_up`."""
    return look_up("basis.kind", name, BASES)
