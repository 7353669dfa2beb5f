"""Tangents carried along a flow: Jacobian–vector products of each step.

Attention scores are larger than the state by a factor of tokens / head width, and a derivative holds several
tensors of their size. A cell therefore processes a few tokens at a time, which causal attention allows: only
the keys and values of earlier tokens, and their tangents, are kept for each evaluation of the field.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import jvp, vmap

from odeformer.analysis.flow import CellStep, Step, differentiable_attention
from odeformer.field.cached import CachedField
from odeformer.field.parts import Heads


@torch.no_grad()
def move(step: Step, x: Tensor, tangents: Tensor) -> Tensor:
    """The next state; the tangents [m, *x.shape] are replaced by their images, in place.

    A model's cell takes one tangent at a time, in about the memory of the cell itself; any other map takes
    all at once.
    """
    if isinstance(step, CellStep):
        for tangent in tangents:
            with forward_ad.dual_level():
                _push_by_tokens(step, x, tangent)
    else:
        with differentiable_attention():
            tangents.copy_(vmap(lambda tangent: jvp(step, (x,), (tangent,))[1])(tangents))
    return step(x)


def _push_by_tokens(step: CellStep, x: Tensor, tangent: Tensor) -> None:
    """Push as many tokens at a time as a head is wide, so that their scores are no larger than the state."""
    batch, length, _ = x.shape
    field: Any = step.field  # a dataclass of the flavour, with the model's config
    few = field.config.head_width
    field = _PlainField(_with_still_tables(field), batch, length)
    # Only vectors: the zero tangent of a matrix would cost a product.
    weights = [{name: _still(w) if w.ndim == 1 else w for name, w in block.items()} for block in step.weights]
    step = dataclasses.replace(step, field=field, weights=weights)

    for first in range(0, length, few):
        last = min(first + few, length)
        causal = torch.ones(last - first, last, dtype=torch.bool, device=x.device).tril(first)
        field.at(first, last, causal)
        # Clones: the tangent of a view would be allocated as large as the whole state.
        moved = step(forward_ad.make_dual(x[:, first:last].clone(), tangent[:, first:last].clone()))
        tangent[:, first:last] = forward_ad.unpack_dual(moved).tangent


class _PlainField(CachedField):
    """Attention by plain matrix products, as fused kernels have no forward derivatives.

    Weights are normalized after the product with the values, which saves a tensor of the scores' size. The
    mask [new, tokens] is shared by the batch.
    """

    def mix(self, heads: Heads) -> Tensor:
        query, key, value = heads
        assert self._mask is not None
        groups, new = key.shape[1], query.shape[2]
        # [batch, groups, queries of a group's heads, head width]
        scale = _still(query.new_tensor(query.shape[-1] ** -0.5))
        query = (query * scale).unflatten(1, (groups, -1)).flatten(2, 3)
        scores = query @ key.mT
        scores.unflatten(2, (-1, new)).masked_fill_(~self._mask, float("-inf"))
        scores -= _still(forward_ad.unpack_dual(scores).primal.amax(-1, keepdim=True))
        scores.exp_()
        mixed = (scores @ value) / scores.sum(-1, keepdim=True)
        return mixed.unflatten(2, (-1, new)).flatten(1, 2)


def _still(tensor: Tensor) -> Tensor:
    """The tensor with a zero tangent, for which torch has a faster path than for a missing one."""
    return forward_ad.make_dual(tensor, torch.zeros_like(tensor))


def _with_still_tables(field: Any) -> Any:
    """The field with zero tangents for its tables of positions."""
    changes = {}
    for entry in dataclasses.fields(field):
        table = getattr(field, entry.name)
        if isinstance(table, Tensor) and table.is_floating_point():
            changes[entry.name] = _still(table)
    return dataclasses.replace(field, **changes)
