"""Matrices of 8-bit whole numbers: a quarter of the bytes, and products that a CPU does faster.

A row of a matrix is whole numbers from −127 to 127 times one scale. What it is multiplied by is rounded in
the same way, each token's vector by a scale of its own, so that a token's result does not depend on what is
beside it. Sums are exact (int32).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST = 127


class Int8Matrix:
    """A matrix [out, in] in the place of a tensor for ``F.linear`` and ``F.embedding``."""

    def __init__(self, matrix: Tensor) -> None:
        """
        Args:
            matrix: [out, in], floating; its rows are rounded to a 254th of their largest number.
        """
        self.numbers, scales = _round_rows(matrix)
        self.scales = scales.squeeze(1)

    @property
    def nbytes(self) -> int:
        return self.numbers.nbytes + self.scales.nbytes

    # By this torch lets an object that is no tensor stand for one.
    @classmethod
    def __torch_function__(
        cls,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is F.linear:
            return _linear(*args, **(kwargs or {}))
        if function is F.embedding:
            return _embedding(*args)
        return NotImplemented


def _round_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers [n, in] and scales [n, 1] whose product is nearest to rows [n, in]."""
    # A row of zeros has any scale but zero.
    scales = rows.abs().amax(dim=1, keepdim=True).clamp_(min=1e-30).div_(LARGEST)
    return (rows / scales).round_().to(torch.int8), scales


def _linear(x: Tensor, matrix: Int8Matrix, bias: Tensor | None = None) -> Tensor:
    numbers, scales = _round_rows(x.reshape(-1, x.shape[-1]))
    y = torch._int_mm(numbers, matrix.numbers.T).to(x.dtype).mul_(scales).mul_(matrix.scales)
    if bias is not None:
        y += bias
    return y.view(*x.shape[:-1], -1)


def _embedding(ids: Tensor, matrix: Int8Matrix) -> Tensor:
    return matrix.numbers[ids] * matrix.scales[ids][..., None]
