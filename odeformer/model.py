"""The language model: embed, integrate along depth, normalise, unembed."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odeformer.config import ModelConfig
from odeformer.depth import Grid, as_grid
from odeformer.field import BlockWeights, build_field
from odeformer.gradients import integrate, node_weights
from odeformer.hypernetwork import Hypernetwork
from odeformer.solvers import Adaptive, Tolerance, solver_named


class Output(NamedTuple):
    """What a forward pass gives."""

    logits: Tensor
    """Scores of each next token, [batch, time, vocabulary]."""
    evaluations: tuple[int, ...]
    """Of the vector field, for each sequence."""


class Odeformer(nn.Module):
    """A continuous-depth transformer. ``model(ids, depth=N)`` runs it at N cells, whatever it was trained at.

    ``solver``, ``gradient`` and ``segment`` are attributes, set from the settings: how the solve moves, how
    its backward pass gets the states, and of how many cells it computes them again together.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vocabulary_size is None or config.context_length is None:
            raise ValueError("vocabulary_size and context_length must be known before a model can be built")
        self.config = config
        self.solver = config.default_solver
        self.gradient = "checkpoint"
        self.segment = 1
        self.embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.hypernetwork = Hypernetwork(config)
        norm = nn.RMSNorm if config.flavour == "llama" else nn.LayerNorm
        self.final_norm = norm(config.width, eps=1e-6 if config.flavour == "llama" else 1e-5)
        self.positions = (
            nn.Embedding(config.context_length, config.width) if config.flavour == "paper" else None
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

    def depth_weights(self, depth: int | Grid | None = None) -> BlockWeights:
        """W at the solver's nodes for a solve of ``depth`` cells: each tensor stacked, float32.

        Pass it to :meth:`forward` to generate once and run many times.
        """
        solver = solver_named(self.solver)
        if isinstance(solver, Adaptive):
            raise ValueError(
                f"solver {self.solver!r} chooses its own times: no weights can be made beforehand"
            )
        grid = as_grid(self.config.depth if depth is None else depth)
        return node_weights(self.hypernetwork, grid, solver, like=self.embedding.weight)

    def forward(
        self,
        input_ids: Tensor,
        depth: int | Grid | Tolerance | None = None,
        weights: BlockWeights | None = None,
    ) -> Output:
        """Logits of the next token at every position.

        Args:
            input_ids: token ids [batch, time], int64, time at most ``config.context_length``.
            depth: N, the number of equal solver cells, or the edges of unequal ones; ``config.depth`` when
                not given. For an adaptive solver the tolerance that chooses the cells.
            weights: what :meth:`depth_weights` gave for this depth; generated when not given.

        Raises:
            ValueError: for a depth below 1, one that the solver does not take, too long a sequence, or ids
                outside the vocabulary.
            FloatingPointError, TooManyEvaluationsError: see :func:`odeformer.gradients.integrate`.
        """
        solver = solver_named(self.solver)
        if isinstance(depth, Tolerance) and weights is not None:
            raise ValueError(
                "an adaptive solver chooses its own times: it cannot use weights made beforehand"
            )
        grid = (
            depth if isinstance(depth, Tolerance) else as_grid(self.config.depth if depth is None else depth)
        )
        self._check_ids(input_ids)
        x = self.embedding(input_ids)
        if self.positions is not None:
            x = x + self.positions.weight[: x.shape[1]]
            x = F.dropout(x, self.config.dropout_rate, self.training)
        x, evaluations = integrate(
            build_field(self.config, x, self.training),
            self.hypernetwork if weights is None else lambda t, h: weights,
            x,
            grid,
            solver=solver,
            gradient=self.gradient if torch.is_grad_enabled() else "direct",
            segment=self.segment,
        )
        x = self.final_norm(x)
        head = self.embedding.weight if self.unembedding is None else self.unembedding.weight
        return Output(F.linear(x, head), evaluations)

    def _check_ids(self, input_ids: Tensor) -> None:
        assert self.config.context_length is not None
        assert self.config.vocabulary_size is not None
        if input_ids.ndim != 2:
            raise ValueError(f"input_ids must be [batch, time], not of shape {tuple(input_ids.shape)}")
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
