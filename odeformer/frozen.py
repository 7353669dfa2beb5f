"""A frozen base model that several adapters, such as those of many fine-tuning jobs, share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from odeformer.config import ModelConfig
from odeformer.field import BlockWeights
from odeformer.field.cached import CachedField
from odeformer.gradients import gradient_named
from odeformer.lora import Adapter, embeddings_side_by_side, side_by_side
from odeformer.model import Odeformer, Output, SolveOptions
from odeformer.solvers import Solver

KEPT_DEPTHS = 4
"""How many depths' generated weights are cached."""


class FrozenBase:
    """A model without weight gradients, so that W(t) is generated once per depth instead of at every step.

    It can be used with the gradient methods that accept precomputed weights.
    """

    def __init__(self, model: Odeformer) -> None:
        model.requires_grad_(False)
        model.hypernetwork.adapter = None
        self.model = model
        self._weights: dict[tuple[str, int], BlockWeights] = {}

    def __call__(
        self,
        input_ids: Tensor,
        depth: int | None,
        adapters: Sequence[Adapter] = (),
        past: CachedField | None = None,
        documents: Tensor | None = None,
    ) -> Output:
        """A forward pass of one batch with one equal part per adapter.

        Args:
            input_ids: token ids [batch, tokens]; the parts in the order of the adapters.
            depth: as in :meth:`Odeformer.forward`.
            adapters: one adapter for each part, or none.
            past: as in :meth:`Odeformer.forward`.
            documents: as in :meth:`Odeformer.forward`.
        """
        pairs: BlockWeights = {}
        embedding_pair = embeddings_side_by_side(adapters)
        if adapters:
            t, _ = self.model.node_times(depth)
            with torch.autocast(t.device.type, enabled=False):
                pairs = adapters[0](t) if len(adapters) == 1 else side_by_side(adapters, t)
        weights = {**self._weights_at(depth), **pairs}
        return self.model(
            input_ids,
            depth=depth,
            weights=weights,
            documents=documents,
            embedding_pair=embedding_pair,
            past=past,
        )

    def settle(self, depth: int | None) -> None:
        """Generate W(t) for this depth and free the weight sets; the model then runs at this depth only.

        It then takes the memory of an ordinary transformer of that depth.
        """
        self._weights_at(depth)
        self.model.hypernetwork.to("meta")

    def weights_held(self) -> list[Tensor]:
        """The cached tensors of all depths."""
        return [tensor for weights in self._weights.values() for tensor in weights.values()]

    def _weights_at(self, depth: int | None) -> BlockWeights:
        key = (self.model.solver, self.model.config.depth if depth is None else depth)
        if key not in self._weights:
            if next(self.model.hypernetwork.parameters()).is_meta:
                raise ValueError("the weight sets are freed: this base runs at the depth it was settled at")
            while len(self._weights) >= KEPT_DEPTHS:
                del self._weights[next(iter(self._weights))]
            with torch.no_grad():
                self._weights[key] = self.model.depth_weights(depth)
        return self._weights[key]


class Tuned(nn.Module):
    """A frozen base with one adapter, with the interface that the training loop expects of a model.

    Its parameters and its ``state_dict`` are the adapter's alone.
    """

    def __init__(self, base: FrozenBase, adapter: Adapter, reference: Adapter | None = None) -> None:
        """Make the model; what it is compared with is the base with ``reference``, or without adapters."""
        super().__init__()
        self.adapter = adapter
        self._base = base
        self._reference = () if reference is None else (reference,)  # no submodule: it is not trained

    def forward(
        self,
        input_ids: Tensor,
        depth: int | None = None,
        past: CachedField | None = None,
        documents: Tensor | None = None,
        of_reference: bool = False,
    ) -> Output:
        """Logits of the next token at every position, as :meth:`Odeformer.forward`."""
        self._base.model.train(self.training)
        adapters = self._reference if of_reference else (self.adapter,)
        return self._base(input_ids, depth, adapters, past, documents)

    @property
    def config(self) -> ModelConfig:
        return self._base.model.config

    def layer_solver(self, solver: str | None = None) -> Solver:
        """The solver of the prelude, as :meth:`Odeformer.layer_solver`."""
        return self._base.model.layer_solver(solver)

    @property
    def solver(self) -> str:
        return self._base.model.solver

    @property
    def options(self) -> SolveOptions:
        """The options of the base model."""
        return self._base.model.options

    @options.setter
    def options(self, options: SolveOptions) -> None:
        if gradient_named(options.gradient).regenerates_weights:
            raise ValueError(
                f"gradient {options.gradient!r} generates W(t) itself; a frozen base uses precomputed weights"
            )
        self._base.model.options = options
