"""Tangents carried along a flow: each step's derivative at x times small changes of x.

Attention's scores are larger than the state by tokens / head width, and a derivative carries several of their
kind. So a cell moves a few tokens after the others, which is all that causal attention needs: what stays of
earlier ones is their keys and values, and what those become, for each evaluation of the field in the cell.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import jvp, vmap

from odeformer.analysis.flow import CellStep, Step, differentiable_attention
from odeformer.field.parts import Heads
from odeformer.inference.decoding import CachedField


@torch.no_grad()
def move(step: Step, x: Tensor, tangents: Tensor) -> Tensor:
    """The next state; the tangents [m, *x.shape] become their images, in place.

    Those of a model's cell one after the other, in about the memory that the cell itself takes with a solver
    of one evaluation; those of any other map all at once.
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
    """As many tokens at a time as a head is wide: their scores are then no larger than the state."""
    batch, length, _ = x.shape
    field: Any = step.field  # of some flavour: a dataclass with the model's config
    few = field.config.head_width
    field = _PlainField(_with_still_tables(field), batch, length)
    # Matrices stay as they are: zeros of their size would be multiplied with.
    weights = [{name: _still(w) if w.ndim == 1 else w for name, w in block.items()} for block in step.weights]
    step = dataclasses.replace(step, field=field, weights=weights)
    for first in range(0, length, few):
        last = min(first + few, length)
        causal = torch.ones(last - first, last, dtype=torch.bool, device=x.device).tril(first)
        field.at(first, last, causal)
        # Copies: the tangent of a view would be made as large as the whole state.
        moved = step(forward_ad.make_dual(x[:, first:last].clone(), tangent[:, first:last].clone()))
        tangent[:, first:last] = forward_ad.unpack_dual(moved).tangent


class _PlainField(CachedField):
    """Attention as plain products, as the fused ones know no forward derivatives; and with few of them: the
    weights are divided by their sum behind the product with the values, so that none stand beside scores.

    Its mask is one for all of a batch, [new, tokens].
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
    """The tensor with zeros for its tangent: without one torch goes a long way round at every use of it."""
    return forward_ad.make_dual(tensor, torch.zeros_like(tensor))


def _with_still_tables(field: Any) -> Any:
    """The field with such tables of positions."""
    tables = {entry.name: getattr(field, entry.name) for entry in dataclasses.fields(field)}
    return dataclasses.replace(
        field,
        **{
            name: _still(table)
            for name, table in tables.items()
            if isinstance(table, Tensor) and table.is_floating_point()
        },
    )
