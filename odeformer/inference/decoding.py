"""Decoding at one depth with a KV cache."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from odeformer.field import BlockWeights, Field, build_field
from odeformer.field.cached import CachedField
from odeformer.field.parts import by_cell
from odeformer.inference.int8 import Int8Matrix
from odeformer.lora import merge
from odeformer.model import Odeformer
from odeformer.solvers import Cell, Solver, cells_of, solver_named


@dataclass(frozen=True)
class Stretch:
    """The cells of the prelude or of the flow, with their solver and weights."""

    solver: Solver
    cells: list[Cell]
    weights: list[list[BlockWeights]]
    """The block's weights at the nodes of each cell."""


class FixedDepthModel:
    """A model at one depth, with W(t) generated once and an attached adapter merged.

    With the flavour's default solver, a token costs as much as in an ordinary transformer of that depth. The
    weights are copies: later changes to the model's parameters have no effect.

    Args:
        model: the model; its ``options.solver`` is used.
        depth: N; the model depth when not given.
        dtype: dtype of weights, states and KV cache; the model's own when not given.
        int8: whether to quantize matrices to 8 bits (:mod:`odeformer.inference.int8`); CPU only.

    Raises:
        ValueError: for too small a depth, or ``int8`` on an accelerator.
    """

    def __init__(
        self,
        model: Odeformer,
        depth: int | None = None,
        dtype: torch.dtype | None = None,
        int8: bool = False,
    ) -> None:
        self.config = model.config
        self.depth = model.config.depth if depth is None else depth
        self.dtype = dtype or model.embedding.weight.dtype
        self.device = model.embedding.weight.device
        if int8 and self.device.type != "cpu":
            raise ValueError(f"int8 is for a CPU, not {self.device.type}")
        prepare = _int8 if int8 else _column_major
        with torch.no_grad():
            merged = merge(model.depth_weights(depth))
            # Popping frees each float32 tensor after its conversion: the two sets never exist in full.
            weights = {name: [prepare(w) for w in merged.pop(name).to(self.dtype)] for name in [*merged]}

        self._layout = [
            (solver, cells_of(grid, float(model.config.depth)) if len(grid) > 1 else [])
            for solver, grid in zip(
                (model.layer_solver(), solver_named(model.solver)), model.grids(depth), strict=True
            )
        ]
        self.stretches = self.stretches_with(weights)

        def copied(module: torch.nn.Module | None) -> torch.nn.Module | None:
            return None if module is None else copy.deepcopy(module).requires_grad_(False).to(self.dtype)

        def copied_matrix(weight: Tensor) -> Tensor:
            matrix = weight.detach().to(self.dtype, copy=True)
            return _int8(matrix) if int8 else matrix

        self.positions, self.final_norm = copied(model.positions), copied(model.final_norm)
        self.embedding = copied_matrix(model.adapted_embedding())
        self.unembedding = self.embedding
        if model.unembedding is not None:
            self.unembedding = copied_matrix(model.unembedding.weight)

    def stretches_with(self, weights: Mapping[str, Sequence[Tensor] | Tensor]) -> list[Stretch]:
        """Prelude and flow with other weights: those at all M times of a solve, by name."""
        stretches, first = [], 0
        for solver, cells in self._layout:
            last = first + len(cells) * len(solver.nodes)
            own = {name: tensors[first:last] for name, tensors in weights.items()}
            stretches.append(Stretch(solver, cells, by_cell(own, len(solver.nodes))))
            first = last
        return stretches

    @property
    def evaluations(self) -> int:
        """Number of vector field evaluations per token."""
        return sum(stretch.solver.evaluations * len(stretch.cells) for stretch in self.stretches)

    def check_prompt(self, prompt: Sequence[int]) -> list[int]:
        """The token ids of a prompt, checked.

        Raises:
            ValueError: for an empty prompt, or ids outside the vocabulary.
        """
        if not prompt:
            raise ValueError("the prompt is empty: at least one token is needed")
        vocabulary = self.config.vocabulary_size or 0
        if min(prompt) < 0 or max(prompt) >= vocabulary:
            raise ValueError(
                f"token ids from {min(prompt)} to {max(prompt)} do not fit vocabulary_size {vocabulary}"
            )
        return list(prompt)

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """The state at t = 0 for token ids and their positions, both [batch, tokens]."""
        x = F.embedding(ids, self.embedding)
        return x if self.positions is None else x + self.positions(positions)

    def solve(self, x: Tensor, field: Field, stretches: Sequence[Stretch] | None = None) -> Tensor:
        """The state at t = 1 from the state at t = 0, both [batch, tokens, width].

        ``stretches``, from :meth:`stretches_with`, replaces the model's weights.
        """
        for stretch in stretches or self.stretches:
            if stretch.cells:
                state = stretch.solver.start(x)
                for cell, at_nodes in zip(stretch.cells, stretch.weights, strict=True):
                    state = stretch.solver.step(field, state, cell, at_nodes)
                x = stretch.solver.end(state).to(x.dtype)
        return x

    def unembed(self, x: Tensor) -> Tensor:
        """Logits of states at t = 1: [..., width] → [..., vocabulary]."""
        assert self.final_norm is not None
        return F.linear(self.final_norm(x), self.unembedding)


def _column_major(weight: Tensor) -> Tensor:
    """A matrix [out, in] in column-major layout, in which a CPU multiplies a single vector twice as fast."""
    return weight.T.contiguous().T if weight.ndim == 2 else weight


def _int8(weight: Tensor) -> Tensor:
    return cast(Tensor, Int8Matrix(weight)) if weight.ndim == 2 else weight


class Decoder:
    """Incremental decoding: reads tokens, one or many at a time, and returns the logits of the next ones.

    ``length`` is the number of tokens that each row has read, including padding. Setting it to a smaller
    number rolls the decoder back.

    Args:
        at: the model, at the depth to decode at.
        batch: number of rows, that is, sequences.
        capacity: maximum number of tokens per row, including padding; at most the context length.
        padding: number of padding tokens at the start of each row, int64 [batch]; none when not given.
    """

    def __init__(self, at: FixedDepthModel, batch: int, capacity: int, padding: Tensor | None = None) -> None:
        assert at.config.context_length is None or capacity <= at.config.context_length
        self.length = 0
        self._at, self._capacity, self._padding = at, capacity, padding
        like = torch.empty(1, capacity, at.config.width, dtype=at.dtype, device=at.device)
        self._field = CachedField(build_field(at.config, like, training=False), batch, capacity)

    def read(self, ids: Tensor, last_only: bool = False) -> Tensor:
        """Read more tokens of each row and return the logits of the next ones, [batch, tokens, vocabulary].

        Args:
            ids: token ids, int64 [batch, tokens].
            last_only: whether to return only the logits after the last token, [batch, 1, vocabulary].

        Raises:
            FloatingPointError: if the state is not finite.
        """
        first, last = self.length, self.length + ids.shape[1]
        assert last <= self._capacity, "more tokens than the capacity of the cache"
        self._field.at(first, last, self._mask(first, last))
        positions = torch.arange(first, last, device=ids.device).expand(ids.shape)
        if self._padding is not None:
            positions = (positions - self._padding[:, None]).clamp(min=0)
        x = self._at.solve(self._at.embed(ids, positions), self._field)
        self.length = last
        if not x.isfinite().all():
            raise FloatingPointError(
                f"the state at the end of a solve at depth {self._at.depth} is not finite"
            )
        return self._at.unembed(x[:, -1:] if last_only else x)

    def reorder(self, rows: Tensor) -> None:
        """Replace the past of row i by that of row ``rows[i]``, for rows int64 [batch]."""
        self._field.cache.reorder(rows)
        if self._padding is not None:
            self._padding = self._padding[rows]

    def _mask(self, first: int, last: int) -> Tensor | None:
        """Attention mask of the tokens from ``first`` on, bool [batch, 1, new, last]; None means causal."""
        is_single = last - first == 1
        if self._padding is None and (is_single or first == 0):
            return None
        key_position = torch.arange(last, device=self._at.device)
        query_position = key_position[first:, None]
        mask = (key_position <= query_position)[None, None]
        if self._padding is not None:
            # Padding attends to itself: a softmax over nothing would be NaN.
            is_token = key_position >= self._padding[:, None, None, None]
            mask = mask & (is_token | (key_position == query_position))
        return mask
