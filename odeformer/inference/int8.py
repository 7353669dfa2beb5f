"""int8 quantization of matrices: a quarter of the memory, and faster matmuls on a CPU.

Each row of a matrix is stored as integers from −127 to 127 and one scale. Activations are quantized in the
same way with one scale per token, so that a token's result does not depend on the rest of the batch. Sums are
exact (int32).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST = 127
"""Largest magnitude of a quantized number."""


class Int8Matrix:
    """A quantized matrix [out, in] that ``F.linear`` and ``F.embedding`` accept in place of a tensor.

    Args:
        matrix: a floating-point matrix [out, in]; the rounding error is at most 1/254 of a row's maximum.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.numbers, scales = _round_rows(matrix)
        self.scales = scales.squeeze(1)

    @property
    def nbytes(self) -> int:
        return self.numbers.nbytes + self.scales.nbytes

    # With this method torch functions accept an object that is not a tensor.
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
    """Integers [n, in] and scales [n, 1] whose product is closest to rows [n, in]."""
    # The minimum avoids a division by zero for rows of zeros.
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
