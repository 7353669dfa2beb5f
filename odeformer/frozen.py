"""A base that does not change, under adapters that do: what many fine-tuning jobs share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from odeformer.config import ModelConfig
from odeformer.depth import Grid
from odeformer.field import BlockWeights
from odeformer.gradients import gradient_named
from odeformer.lora import Adapter, embeddings_side_by_side, side_by_side
from odeformer.model import Odeformer, Output, SolveOptions
from odeformer.solvers import Solver

KEPT_GRIDS = 4
"""Of so many grids the weights stay."""


class FrozenBase:
    """A model whose W(t) is made once for each grid instead of at every step, and needs no gradient.

    It takes the gradient methods that use weights made beforehand.
    """

    def __init__(self, model: Odeformer) -> None:
        model.requires_grad_(False)
        model.hypernetwork.adapter = None
        self.model = model
        self._weights: dict[tuple[str, tuple[Grid, Grid]], BlockWeights] = {}

    def __call__(
        self, input_ids: Tensor, depth: int | Grid | None, adapters: Sequence[Adapter] = ()
    ) -> Output:
        """A pass over a batch of as many equal parts as there are adapters, each under its own.

        Args:
            input_ids: [batch, tokens], the adapters' parts one behind the other.
            depth: as in :meth:`Odeformer.forward`.
            adapters: one for all, several, or none.
        """
        pairs: BlockWeights = {}
        embedding_pair = embeddings_side_by_side(adapters)
        if adapters:
            t, _ = self.model.node_times(depth)
            with torch.autocast(t.device.type, enabled=False):
                pairs = adapters[0](t) if len(adapters) == 1 else side_by_side(adapters, t)
        weights = {**self._own(depth), **pairs}
        return self.model(input_ids, depth=depth, weights=weights, embedding_pair=embedding_pair)

    def settle(self, depth: int | Grid | None) -> None:
        """Make W(t) for this depth and let go of the weight sets: from now on it runs at no other.

        It then holds what an ordinary transformer of so many layers does.
        """
        self._own(depth)
        self.model.hypernetwork.to("meta")

    def weights_held(self) -> list[Tensor]:
        """The tensors of all grids that are kept."""
        return [tensor for weights in self._weights.values() for tensor in weights.values()]

    def _own(self, depth: int | Grid | None) -> BlockWeights:
        key = (self.model.solver, self.model.grids(depth))
        if key not in self._weights:
            if next(self.model.hypernetwork.parameters()).is_meta:
                raise ValueError("the weight sets are gone: this base runs at the depth it was settled at")
            while len(self._weights) >= KEPT_GRIDS:
                del self._weights[next(iter(self._weights))]
            with torch.no_grad():
                self._weights[key] = self.model.depth_weights(depth)
        return self._weights[key]


class Tuned(nn.Module):
    """One adapter on a frozen base. Its parameters and its state are the adapter's alone.

    It has what the training loop asks of a model.
    """

    def __init__(self, base: FrozenBase, adapter: Adapter) -> None:
        super().__init__()
        self.adapter = adapter
        self._base = base

    def forward(self, input_ids: Tensor, depth: int | Grid | None = None) -> Output:
        """As :meth:`Odeformer.forward`."""
        self._base.model.train(self.training)
        return self._base(input_ids, depth, [self.adapter])

    @property
    def config(self) -> ModelConfig:
        return self._base.model.config

    def layer_solver(self, solver: str | None = None) -> Solver:
        """As :meth:`Odeformer.layer_solver`."""
        return self._base.model.layer_solver(solver)

    @property
    def solver(self) -> str:
        return self._base.model.solver

    @property
    def options(self) -> SolveOptions:
        """Those of the base."""
        return self._base.model.options

    @options.setter
    def options(self, options: SolveOptions) -> None:
        if gradient_named(options.gradient).regenerates_weights:
            raise ValueError(
                f"gradient {options.gradient!r} makes W(t) itself: a frozen base has it made before"
            )
        self._base.model.options = options
