"""The language model: embed, integrate along depth, normalise, unembed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odeformer.config import ModelConfig
from odeformer.depth import Grid, as_grid
from odeformer.field import BlockWeights, Field, build_field
from odeformer.gradients import gradient_named
from odeformer.gradients.integrate import integrate
from odeformer.hypernetwork import FixedWeights, Hypernetwork, WeightSource, time_tensors
from odeformer.lora import EmbeddingPair
from odeformer.solvers import Solver, layer_solver_name, node_times, solver_named


class Output(NamedTuple):
    """What a forward pass gives."""

    logits: Tensor
    """Scores of each next token, [batch, tokens, vocabulary]."""
    evaluations: tuple[int, ...]
    """Of the vector field, for each sequence."""


@dataclass(frozen=True)
class SolveOptions:
    """How the ODE along depth is solved."""

    solver: str
    """A key of :data:`odeformer.solvers.SOLVERS`."""
    gradient: str = "checkpoint"
    """A key of :data:`odeformer.gradients.GRADIENTS`: how the backward pass gets the states."""
    segment: int = 1
    """The number of cells that gradient ``checkpoint`` computes again together."""


class Odeformer(nn.Module):
    """A continuous-depth transformer. ``model(ids, depth=N)`` runs it at N cells, whatever it was trained at.

    ``options`` are the :class:`SolveOptions` of every pass that is not given others.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vocabulary_size is None or config.context_length is None:
            raise ValueError("vocabulary_size and context_length must be known before a model can be built")
        self.config = config
        self.options = SolveOptions(config.default_solver)
        self.embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.hypernetwork = Hypernetwork(config)
        norm = nn.RMSNorm if config.traits.norm == "rms" else nn.LayerNorm
        self.final_norm = norm(config.width, eps=config.epsilon)
        self.positions = (
            nn.Embedding(config.context_length, config.width)
            if config.traits.rotary_fraction is None
            else None
        )
        self.unembedding = (
            None if config.tie_embeddings else nn.Linear(config.width, config.vocabulary_size, bias=False)
        )
        std = math.sqrt(2 / (5 * config.width))
        nn.init.normal_(self.embedding.weight, std=std)
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=std / 2)
        if self.unembedding is not None:
            nn.init.normal_(self.unembedding.weight, std=std)

    @property
    def solver(self) -> str:
        """The solver of every pass that is not given another."""
        return self.options.solver

    def depth_weights(self, depth: int | Grid | None = None, solver: str | None = None) -> BlockWeights:
        """W at every time that a solve of ``depth`` cells needs it: each tensor stacked, float32.

        Pass it to :meth:`forward` to generate once and run many times.

        Args:
            solver: that the pass will have; the model's own when not given.
        """
        made: BlockWeights = self.hypernetwork(*self.node_times(depth, solver))
        return made

    def node_times(self, depth: int | Grid | None = None, solver: str | None = None) -> tuple[Tensor, Tensor]:
        """The times at which a solve of ``depth`` cells needs W, and the widths of their cells: each [M]."""
        prelude, flow = self.grids(depth)
        early_times, early_widths = node_times(self.layer_solver(solver), prelude)
        late_times, late_widths = node_times(solver_named(solver or self.solver), flow)
        return time_tensors(
            [*early_times, *late_times], [*early_widths, *late_widths], like=self.embedding.weight
        )

    def grids(self, depth: int | Grid | None = None) -> tuple[Grid, Grid]:
        """The edges of the prelude's cells and of the flow's, for a solve of so many cells in all.

        Raises:
            ValueError: for too few cells, or edges that are not this model's.
        """
        count = self.config.prelude_layers
        grid = as_grid(self.config.depth if depth is None else depth, count, self.config.depth)
        return grid[: count + 1], grid[count:]

    def layer_solver(self, solver: str | None = None) -> Solver:
        """Takes the steps of the prelude: the pass's own solver if its step is an ordinary layer."""
        return solver_named(layer_solver_name(solver or self.solver, self.config.default_solver))

    def forward(
        self,
        input_ids: Tensor,
        depth: int | Grid | None = None,
        weights: BlockWeights | None = None,
        documents: Tensor | None = None,
        embedding_pair: EmbeddingPair | None = None,
        options: SolveOptions | None = None,
    ) -> Output:
        """Logits of the next token at every position.

        Args:
            input_ids: token ids [batch, tokens], int64, at most ``config.context_length`` tokens.
            depth: N, the number of cells, those of the prelude included; ``config.depth`` when not given.
                Or the edges of unequal cells.
            weights: what :meth:`depth_weights` gave for this depth and solver; generated when not given.
            documents: a number for each token's document, [batch, tokens]; where given, no token sees another
                document's. Their positions go on from one to the next.
            embedding_pair: a low-rank change of the embedding; an attached adapter's when not given.
            options: how to solve; the model's own when not given.

        Raises:
            ValueError: for too small a depth, too long a sequence, ids outside the vocabulary, or weights
                that were generated for another depth.
            FloatingPointError: see :func:`odeformer.gradients.integrate.integrate`.
        """
        options = options or self.options
        gradient = options.gradient if torch.is_grad_enabled() else "direct"
        if weights is None and not gradient_named(gradient).regenerates_weights:
            weights = self.depth_weights(depth, options.solver)  # the prelude's and the flow's in one product
        early, late = self._sources(weights, options.solver)
        x, field = self.flow_start(
            input_ids, early, replace(options, gradient=gradient), documents, embedding_pair
        )
        _, flow = self.grids(depth)
        solver = solver_named(options.solver)
        x, evaluations = integrate(
            field, late, x, flow, solver=solver, gradient=gradient, segment=options.segment
        )
        in_prelude = self.config.prelude_layers * self.layer_solver(options.solver).evaluations
        return Output(self.unembed(x, embedding_pair), tuple(in_prelude + count for count in evaluations))

    def flow_start(
        self,
        input_ids: Tensor,
        weights: WeightSource | None = None,
        options: SolveOptions | None = None,
        documents: Tensor | None = None,
        embedding_pair: EmbeddingPair | None = None,
    ) -> tuple[Tensor, Field]:
        """The state where the flow begins, after embedding and prelude; and the field that moves it."""
        options = options or self.options
        prelude, _ = self.grids()
        x = self.embed(input_ids, embedding_pair)
        field = build_field(self.config, x, self.training, documents)
        source = self.hypernetwork if weights is None else weights
        # A few layers: their states are kept also where the flow's are not.
        gradient = "checkpoint" if gradient_named(options.gradient).regenerates_weights else options.gradient
        solver = self.layer_solver(options.solver)
        x, _ = integrate(field, source, x, prelude, solver=solver, gradient=gradient)
        return x, field

    def _sources(self, weights: BlockWeights | None, solver: str) -> tuple[WeightSource, WeightSource]:
        """Where the prelude and the flow get W(t) from."""
        if weights is None:
            return self.hypernetwork, self.hypernetwork
        nodes = self.config.prelude_layers * len(self.layer_solver(solver).nodes)
        early = {name: stacked[:nodes] for name, stacked in weights.items()}
        late = {name: stacked[nodes:] for name, stacked in weights.items()}
        return FixedWeights(early), FixedWeights(late)

    def embed(self, input_ids: Tensor, pair: EmbeddingPair | None = None) -> Tensor:
        """The state at t = 0: [batch, tokens] → [batch, tokens, width]. ``pair``: as in :meth:`forward`."""
        self._check_ids(input_ids)
        x: Tensor = self.embedding(input_ids)
        pair = self.embedding_pair() if pair is None else pair
        if pair is not None:
            x = x + pair.rows(input_ids)
        if self.positions is not None:
            x = x + self.positions.weight[: x.shape[1]]
            x = F.dropout(x, self.config.dropout_rate, self.training)
        return x

    def unembed(self, x: Tensor, pair: EmbeddingPair | None = None) -> Tensor:
        """Logits of the next token for states at t = 1: [..., width] → [..., vocabulary]."""
        x = self.final_norm(x)
        if self.unembedding is not None:
            return F.linear(x, self.unembedding.weight)
        pair = self.embedding_pair() if pair is None else pair
        return F.linear(x, self.embedding.weight) if pair is None else pair.logits(x, self.embedding.weight)

    def embedding_pair(self) -> EmbeddingPair | None:
        """What an attached adapter changes of the embedding."""
        adapter = self.hypernetwork.adapter
        return None if adapter is None or adapter.embedding is None else adapter.embedding()

    def adapted_embedding(self) -> Tensor:
        """The embedding, [vocabulary, width], with an attached adapter's change in it."""
        pair = self.embedding_pair()
        return self.embedding.weight if pair is None else self.embedding.weight + pair.b @ pair.a

    def _check_ids(self, input_ids: Tensor) -> None:
        assert self.config.context_length is not None
        assert self.config.vocabulary_size is not None
        if input_ids.ndim != 2:
            raise ValueError(f"input_ids must be [batch, tokens], not of shape {tuple(input_ids.shape)}")
        if input_ids.shape[1] > self.config.context_length:
            raise ValueError(
                f"a sequence of {input_ids.shape[1]} tokens is longer than "
                f"context_length {self.config.context_length}"
            )
        # On an accelerator the comparison would wait for the device at every step.
        if input_ids.device.type == "cpu" and input_ids.numel():
            low, high = int(input_ids.min()), int(input_ids.max())
            if low < 0 or high >= self.config.vocabulary_size:
                raise ValueError(
                    f"token ids from {low} to {high} do not fit vocabulary_size {self.config.vocabulary_size}"
                )


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each target in nats: logits [..., vocabulary], targets [...] → [...].

    In float32, or float64 for float64 logits.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    flat = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


def distillation_losses(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of each prediction against the teacher's whole distribution, in nats.

    logits, teacher [..., vocabulary] → [...], in float32. Its gradient is that of the Kullback–Leibler
    divergence from the teacher.
    """
    flat = F.cross_entropy(
        logits.float().flatten(0, -2), teacher.float().softmax(dim=-1).flatten(0, -2), reduction="none"
    )
    return flat.view(logits.shape[:-1])


def parameter_count(config: ModelConfig) -> int:
    """Total parameters of a model of this shape, counted without allocating it."""
    with torch.device("meta"):
        return sum(p.numel() for p in Odeformer(config).parameters())
