"""Copies of a state in host memory, which a thread can write while training continues."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor

_Like = tuple[torch.Size, torch.dtype]


class HostCopies:
    """Copies of tensors in reusable buffers, as allocating new memory would take longer than copying.

    Each copy has the size of its tensor, even if that is a view of a larger one.
    """

    def __init__(self) -> None:
        self._buffers: dict[_Like, list[Tensor]] = {}
        self._taken: Counter[_Like] = Counter()
        self._pending: list[tuple[Tensor, Tensor]] = []

    def begin(self) -> None:
        """Release all buffers for reuse."""
        self._taken.clear()
        self._pending.clear()

    def fill(self) -> None:
        """Copy the tensors of :meth:`of`. Another thread may call this while the tensors do not change."""
        for copied, tensor in self._pending:
            copied.copy_(tensor, non_blocking=True)
        for device in {tensor.device for _, tensor in self._pending if tensor.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        self._pending.clear()

    def of(self, state: Any) -> Any:
        """A copy of a nested state, whose tensors are filled by :meth:`fill`."""
        if isinstance(state, Tensor):
            return self._copy(state.detach())
        if isinstance(state, dict):
            return type(state)((key, self.of(value)) for key, value in state.items())
        if type(state) in (list, tuple):
            return type(state)(self.of(value) for value in state)
        return copy.deepcopy(state)

    def _copy(self, tensor: Tensor) -> Tensor:
        like = tensor.shape, tensor.dtype
        buffers, nth = self._buffers.setdefault(like, []), self._taken[like]
        if nth == len(buffers):
            buffers.append(torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda))
        self._taken[like] += 1
        self._pending.append((buffers[nth], tensor))
        return buffers[nth]
