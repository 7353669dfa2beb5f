"""A state copied into host memory, where a thread may take its time to write it."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor

_Like = tuple[torch.Size, torch.dtype]


class HostCopies:
    """Copies of tensors, in memory that is taken once: the next copies overwrite it.

    New memory would cost more than the copy into it. Each copy is as large as the tensor, even if that is a
    view of something larger: what is written are the copies.
    """

    def __init__(self) -> None:
        self._buffers: dict[_Like, list[Tensor]] = {}
        self._taken: Counter[_Like] = Counter()
        self._asked: list[tuple[Tensor, Tensor]] = []

    def begin(self) -> None:
        """From now on nobody needs the copies that were made before."""
        self._taken.clear()
        self._asked.clear()

    def fill(self) -> None:
        """Make the copies that were asked for. May be called in another thread, as long as the tensors stay
        what they are."""
        for copied, tensor in self._asked:
            copied.copy_(tensor, non_blocking=True)
        for device in {tensor.device for _, tensor in self._asked if tensor.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        self._asked.clear()

    def of(self, state: Any) -> Any:
        """A copy of what dictionaries, lists and tuples hold; of tensors it is made by :meth:`fill`."""
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
        self._asked.append((buffers[nth], tensor))
        return buffers[nth]
