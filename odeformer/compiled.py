"""Functions of tensors as code from ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor


@cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The compiled form of a function, without graph breaks; the first call for a shape takes some seconds.

    Each shape is compiled by itself, so that a result does not depend on the shapes seen before it.
    """
    # Not at import: torch's compiler takes seconds to import.
    return torch.compile(function, fullgraph=True, dynamic=False)
