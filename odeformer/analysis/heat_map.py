"""Which tokens each prediction of a text leans on, for all predictions at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.func import vjp, vmap

from odeformer.analysis.attribution import neutral_state
from odeformer.analysis.flow import differentiable_attention, flow_of
from odeformer.depth import Grid
from odeformer.model import Odeformer

OUTPUTS_AT_ONCE = 16


class HeatMap:
    """Integrated gradients of chosen logits of one text, as
    :func:`odeformer.analysis.attribution.integrated_gradients` gives them for each of its beginnings.

    No token sees those that come after it, so the states on the line from "no token" to the text are the same
    for every prediction: they are made once, and each prediction costs a backward pass.
    """

    def __init__(
        self, model: Odeformer, input_ids: Tensor, depth: int | Grid | None = None, points: int = 8
    ) -> None:
        """
        Args:
            input_ids: [1, time].
            points: of the line, at the nodes of a Gauss–Legendre formula.
        """
        self._model, self._flow = model, flow_of(model, input_ids.shape[1], depth)
        self._x = model.embed(input_ids).detach()
        self._neutral = neutral_state(model, input_ids)
        nodes, weights = np.polynomial.legendre.leggauss(points)
        self._line = list(zip((nodes + 1) / 2, weights / 2, strict=True))

    def rows(self, outputs: Sequence[int], answers: Tensor) -> Tensor:
        """Scores of every token k for the logit of ``answers[i]`` behind position ``outputs[i]``.

        Args:
            outputs: positions j.
            answers: ids of tokens, as many.

        Returns:
            [outputs, time], not negative; 0 where k comes after j.
        """
        way = self._x - self._neutral
        total = torch.zeros(len(outputs), *self._x.shape[1:]).to(self._x)
        positions = torch.tensor(outputs)
        with differentiable_attention():
            for place, weight in self._line:

                def logits(x: Tensor) -> Tensor:
                    chosen = self._model.unembed(self._flow.end(x)[0, positions])
                    return chosen.gather(1, answers[:, None])[:, 0]

                pull = vjp(logits, self._neutral + float(place) * way)[1]
                for few in torch.eye(len(outputs)).to(self._x).split(OUTPUTS_AT_ONCE):
                    first = int(few[0].argmax())
                    (gradient,) = vmap(pull)(few)
                    total[first : first + len(few)] += float(weight) * gradient[:, 0].detach()
        return (total * way).sum(-1).abs()
