"""Which tokens each prediction of a text leans on, for all predictions at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.func import vjp, vmap

from odeformer.analysis.answers.attribution import neutral_state
from odeformer.analysis.flow import differentiable_attention, flow_of
from odeformer.depth import Grid
from odeformer.model import Odeformer

OUTPUTS_AT_ONCE = 16


def heat_map(
    model: Odeformer,
    input_ids: Tensor,
    outputs: Sequence[int],
    answers: Tensor,
    depth: int | Grid | None = None,
    points: int = 8,
) -> Tensor:
    """Integrated gradients of chosen logits of one text, as
    :func:`odeformer.analysis.answers.attribution.integrated_gradients` gives them for each of its beginnings.

    No token sees those that come after it, so the states on the line from "no token" to the text are the same
    for every prediction: some predictions at a time share them, and each costs a backward pass.

    Args:
        input_ids: [1, tokens].
        outputs: positions j, rising.
        answers: ids of tokens, one for each.
        points: of the line, at the nodes of a Gauss–Legendre formula.

    Returns:
        Scores of every token k for the logit of ``answers[i]`` behind position ``outputs[i]``,
        [outputs, tokens], not negative; 0 where k comes after j.
    """
    x = model.embed(input_ids).detach()
    neutral = neutral_state(model, input_ids).expand_as(x)
    nodes, weights = np.polynomial.legendre.leggauss(points)
    scores, flow = x.new_zeros(len(outputs), x.shape[1]), flow_of(model, x.shape[1], depth)
    for rows in torch.arange(len(outputs)).split(OUTPUTS_AT_ONCE):
        positions = torch.tensor(outputs)[rows]
        length = int(positions[-1]) + 1  # the text may end here
        short = flow._replace(
            cell_maps=tuple(replace(step, field=step.field.part(0, length)) for step in flow.cell_maps)
        )
        begin = neutral[:, :length]
        way, total = x[:, :length] - begin, x.new_zeros(len(rows), length, x.shape[2])

        def logits(x: Tensor) -> Tensor:
            chosen = model.unembed(short.end(x)[0, positions])  # noqa: B023 (called in this turn alone)
            return chosen.gather(1, answers[rows, None])[:, 0]  # noqa: B023

        with differentiable_attention():
            for place, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
                pull = vjp(logits, begin + float(place) * way)[1]
                (gradients,) = vmap(pull)(torch.eye(len(rows)).to(x))
                total += float(weight) * gradients[:, 0].detach()
        scores[rows, :length] = (total * way).sum(-1).abs()
    return scores
