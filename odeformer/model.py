"""The language model: embed the tokens, solve the ODE along depth, normalize, unembed."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odeformer.config import ModelConfig
from odeformer.depth import Grid, as_grid
from odeformer.field import BlockWeights, Field, build_field
from odeformer.field.cached import CachedField
from odeformer.gradients import gradient_named
from odeformer.gradients.integrate import integrate
from odeformer.hypernetwork import FixedWeights, Hypernetwork, WeightSource, time_tensors
from odeformer.lora import EmbeddingPair
from odeformer.solvers import Solver, layer_solver_name, node_times, solver_named


class Output(NamedTuple):
    """The result of a forward pass."""

    logits: Tensor
    """Logits of the next token, [batch, tokens, vocabulary]."""
    evaluations: int
    """Number of vector field evaluations."""


@dataclass(frozen=True)
class SolveOptions:
    """Solver and gradient method of a forward and backward pass."""

    solver: str
    """A key of :data:`odeformer.solvers.SOLVERS`."""
    gradient: str = "checkpoint"
    """A key of :data:`odeformer.gradients.GRADIENTS`: how the backward pass obtains the states."""
    segment: int = 1
    """Number of cells between two saved states, for gradient ``checkpoint`` only."""
    compiled: bool = False
    """Whether the vector field is evaluated by code from ``torch.compile``."""


class Odeformer(nn.Module):
    """A continuous-depth transformer: ``model(ids, depth=N)`` runs it with N layers.

    The state x [batch, tokens, width] starts as the token embedding and follows dx/dt = D · f(x; W(t)) from
    t = 0 to t = 1, where f is a transformer block (:mod:`odeformer.field`) and W(t) comes from the
    hypernetwork. [0, 1] is divided into N cells, and the solver makes one step per cell. The first
    ``config.prelude_layers`` cells (the prelude) are ordinary layers at any N; the other cells are called the
    flow. At N = D with the flavour's default solver, such as Euler's method for GPT-NeoX, the model is
    exactly an ordinary transformer of D layers.

    ``options`` holds the default :class:`SolveOptions`.
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
        """The default solver."""
        return self.options.solver

    def depth_weights(self, depth: int | Grid | None = None, solver: str | None = None) -> BlockWeights:
        """The block's tensors at all M times that a solve of ``depth`` cells needs, each [M, ...].

        Pass them to :meth:`forward` to generate the weights once and run the model many times.

        Args:
            depth: N or a grid, as in :meth:`forward`.
            solver: the solver of the pass; the default solver when not given.
        """
        weights: BlockWeights = self.hypernetwork(*self.node_times(depth, solver))
        return weights

    def node_times(self, depth: int | Grid | None = None, solver: str | None = None) -> tuple[Tensor, Tensor]:
        """The times t [M] at which a solve of ``depth`` cells needs W(t), and their cell widths h [M]."""
        prelude, flow = self.grids(depth)
        prelude_times, prelude_widths = node_times(self.layer_solver(solver), prelude)
        flow_times, flow_widths = node_times(solver_named(solver or self.solver), flow)
        return time_tensors(
            [*prelude_times, *flow_times], [*prelude_widths, *flow_widths], like=self.embedding.weight
        )

    def grids(self, depth: int | Grid | None = None) -> tuple[Grid, Grid]:
        """The cell edges of the prelude and of the flow, for a solve of ``depth`` cells in total.

        Raises:
            ValueError: for too few or too many cells, a grid that does not begin with this model's prelude,
                or in evaluation layers whose weights are larger than the memory of this machine.
        """
        count = self.config.prelude_layers
        grid = as_grid(self.config.depth if depth is None else depth, count, self.config.depth)
        if not self.training and self.embedding.weight.device.type == "cpu":
            self._check_memory(len(grid) - 1)
        return grid[: count + 1], grid[count:]

    def _check_memory(self, layers: int) -> None:
        layer = sum(math.prod(spec.shape) for spec in self.hypernetwork.tensors.values())
        needed = layers * layer * self.embedding.weight.element_size() / 2**30
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        if needed > there:
            raise ValueError(
                f"depth {layers} is too large: its weights have {needed:,.1f} GiB, this machine {there:,.1f}"
            )

    def layer_solver(self, solver: str | None = None) -> Solver:
        """The prelude's solver: ``solver`` itself if its step is an ordinary layer, else the flavour's."""
        return solver_named(layer_solver_name(solver or self.solver, self.config.default_solver))

    def forward(
        self,
        input_ids: Tensor,
        depth: int | Grid | None = None,
        weights: BlockWeights | None = None,
        documents: Tensor | None = None,
        embedding_pair: EmbeddingPair | None = None,
        options: SolveOptions | None = None,
        past: CachedField | None = None,
    ) -> Output:
        """Logits of the next token at every position.

        Args:
            input_ids: token ids, int64 [batch, tokens], at most ``config.context_length`` tokens.
            depth: N, the number of cells including the prelude, or the edges of unequal cells;
                ``config.depth`` when not given.
            weights: the result of :meth:`depth_weights` for this depth and solver; generated when not given.
            documents: the document number of each token, int64 [batch, tokens]. If given, tokens attend only
                within their document; positions are not reset between documents.
            embedding_pair: a low-rank change of the embedding; that of an attached adapter when not given.
            options: solver and gradient method; ``self.options`` when not given.
            past: the tokens that were read before these, without gradients; none when not given.

        Raises:
            ValueError: for too small a depth, too long a sequence, or weights that were generated for
                another depth.
            IndexError: on a CPU, for ids outside the vocabulary; a GPU stops with an assertion.
            FloatingPointError: see :func:`odeformer.gradients.integrate.integrate`.
        """
        options = options or self.options
        gradient = options.gradient if torch.is_grad_enabled() else "direct"
        if weights is None and not gradient_named(gradient).regenerates_weights:
            weights = self.depth_weights(depth, options.solver)  # prelude and flow in one matmul per tensor
        prelude_source, flow_source = self._sources(weights, options.solver)

        x, field = self.flow_start(
            input_ids, prelude_source, replace(options, gradient=gradient), documents, embedding_pair, past
        )
        _, flow = self.grids(depth)
        solver = solver_named(options.solver)
        x, evaluations = integrate(
            field, flow_source, x, flow, solver=solver, gradient=gradient, segment=options.segment
        )

        if past is not None and past.last_only:
            x = x[:, -1:]
        in_prelude = self.config.prelude_layers * self.layer_solver(options.solver).evaluations
        return Output(self.unembed(x, embedding_pair), in_prelude + evaluations)

    def flow_start(
        self,
        input_ids: Tensor,
        weights: WeightSource | None = None,
        options: SolveOptions | None = None,
        documents: Tensor | None = None,
        embedding_pair: EmbeddingPair | None = None,
        past: CachedField | None = None,
    ) -> tuple[Tensor, Field]:
        """The state after embedding and prelude, where the flow begins, and the vector field of the flow.

        All arguments are those of :meth:`forward`, except that ``weights`` is the source of the prelude's
        W(t); the hypernetwork when not given.
        """
        options = options or self.options
        prelude, _ = self.grids()
        x = self.embed(input_ids, embedding_pair, first=past.first if past else 0)
        field = past or build_field(self.config, x, self.training, documents, options.compiled)
        source = self.hypernetwork if weights is None else weights
        # The prelude has only a few layers, so saving its states is cheap.
        gradient = "checkpoint" if gradient_named(options.gradient).regenerates_weights else options.gradient
        solver = self.layer_solver(options.solver)
        x, _ = integrate(field, source, x, prelude, solver=solver, gradient=gradient)
        return x, field

    def _sources(self, weights: BlockWeights | None, solver: str) -> tuple[WeightSource, WeightSource]:
        """The weight sources of the prelude and of the flow."""
        if weights is None:
            return self.hypernetwork, self.hypernetwork
        nodes = self.config.prelude_layers * len(self.layer_solver(solver).nodes)
        prelude = {name: stacked[:nodes] for name, stacked in weights.items()}
        flow = {name: stacked[nodes:] for name, stacked in weights.items()}
        return FixedWeights(prelude), FixedWeights(flow)

    def embed(self, input_ids: Tensor, pair: EmbeddingPair | None = None, first: int = 0) -> Tensor:
        """The state at t = 0: token ids, int64 [batch, tokens] → [batch, tokens, width].

        ``pair`` is a low-rank change of the embedding; that of an attached adapter when not given. ``first``
        is the position of the first token.
        """
        self._check_shape(input_ids)
        x: Tensor = self.embedding(input_ids)
        pair = self.embedding_pair() if pair is None else pair
        if pair is not None:
            x = x + pair.rows(input_ids)
        if self.positions is not None:
            x = x + self.positions.weight[first : first + x.shape[1]]
            x = F.dropout(x, self.config.dropout_rate, self.training)
        return x

    def unembed(self, x: Tensor, pair: EmbeddingPair | None = None) -> Tensor:
        """Logits of the next token from states at t = 1: [..., width] → [..., vocabulary]."""
        x = self.final_norm(x)
        if self.unembedding is not None:
            return F.linear(x, self.unembedding.weight)
        pair = self.embedding_pair() if pair is None else pair
        return F.linear(x, self.embedding.weight) if pair is None else pair.logits(x, self.embedding.weight)

    def embedding_pair(self) -> EmbeddingPair | None:
        """The low-rank change that an attached adapter makes to the embedding, if any."""
        adapter = self.hypernetwork.adapter
        return None if adapter is None or adapter.embedding is None else adapter.embedding()

    def adapted_embedding(self) -> Tensor:
        """The embedding matrix [vocabulary, width], with an attached adapter merged into it."""
        pair = self.embedding_pair()
        return self.embedding.weight if pair is None else self.embedding.weight + pair.b @ pair.a

    def _check_shape(self, input_ids: Tensor) -> None:
        assert self.config.context_length is not None
        if input_ids.ndim != 2:
            raise ValueError(f"input_ids must be [batch, tokens], not of shape {tuple(input_ids.shape)}")
        if input_ids.shape[1] > self.config.context_length:
            raise ValueError(
                f"a sequence of {input_ids.shape[1]} tokens is longer than "
                f"context_length {self.config.context_length}"
            )


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each target in nats: logits [..., vocabulary], targets [...] → [...].

    The result is float32, or float64 for float64 logits.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    flat = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


def distillation_losses(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy in nats of each predicted distribution, with that of the teacher as target.

    Logits and teacher logits, both [..., vocabulary] → [...], float32. The gradient equals that of the
    Kullback–Leibler divergence from the teacher.
    """
    flat = F.cross_entropy(
        logits.float().flatten(0, -2), teacher.float().softmax(dim=-1).flatten(0, -2), reduction="none"
    )
    return flat.view(logits.shape[:-1])


def parameter_count(config: ModelConfig) -> int:
    """Number of parameters of a model of this shape, counted without allocating it."""
    with torch.device("meta"):
        return sum(p.numel() for p in Odeformer(config).parameters())
