"""A model at one depth that reads token by token and keeps the keys and values of what it has read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from odeformer.field import BlockWeights, Field, build_field
from odeformer.field.parts import Heads, by_cell, join_heads, project
from odeformer.inference.int8 import Int8Matrix
from odeformer.lora import merge
from odeformer.model import Odeformer
from odeformer.solvers import Cell, Solver, cells_of, solver_named


@dataclass(frozen=True)
class Stretch:
    """A part of the solve: the prelude, or the flow."""

    solver: Solver
    cells: list[Cell]
    weights: list[list[BlockWeights]]
    """At the nodes of each cell."""


class FixedDepthModel:
    """A model's weights W(t) at the nodes of one depth, made once, adapters merged.

    From then on a token costs what it costs an ordinary transformer of so many layers. What happens to the
    model's parameters afterwards has no part in it.
    """

    def __init__(
        self,
        model: Odeformer,
        depth: int | None = None,
        dtype: torch.dtype | None = None,
        int8: bool = False,
    ) -> None:
        """
        Args:
            model: its solver takes the steps.
            depth: N; the model depth when not given.
            dtype: of weights, states and memory; the model's own when not given.
            int8: matrices of 8-bit numbers (:mod:`odeformer.inference.int8`), for a CPU.

        Raises:
            ValueError: for too small a depth, or ``int8`` on an accelerator.
        """
        self.config = model.config
        self.depth = model.config.depth if depth is None else depth
        self.dtype = dtype or model.embedding.weight.dtype
        self.device = model.embedding.weight.device
        if int8 and self.device.type != "cpu":
            raise ValueError(f"int8 is for a CPU, not {self.device.type}")
        prepare = _int8 if int8 else _column_major
        with torch.no_grad():
            merged = merge(model.depth_weights(depth))
            # One tensor after the other, so that the 32-bit ones are not all there beside the others.
            weights = {name: [prepare(w) for w in merged.pop(name).to(self.dtype)] for name in [*merged]}
        self.stretches = []
        solvers = (model.layer_solver(), solver_named(model.solver))
        for solver, grid in zip(solvers, model.grids(depth), strict=True):
            cells = cells_of(grid, float(model.config.depth)) if len(grid) > 1 else []
            here, weights = (
                {name: tensors[: len(cells) * len(solver.nodes)] for name, tensors in weights.items()},
                {name: tensors[len(cells) * len(solver.nodes) :] for name, tensors in weights.items()},
            )
            self.stretches.append(Stretch(solver, cells, by_cell(here, len(solver.nodes))))

        def own_copy(module: torch.nn.Module | None) -> torch.nn.Module | None:
            return None if module is None else copy.deepcopy(module).requires_grad_(False).to(self.dtype)

        def outer(weight: Tensor) -> Tensor:
            own = weight.detach().to(self.dtype, copy=True)
            return _int8(own) if int8 else own

        self.positions, self.final_norm = own_copy(model.positions), own_copy(model.final_norm)
        self.embedding = outer(model.adapted_embedding())
        self.unembedding = self.embedding if model.unembedding is None else outer(model.unembedding.weight)

    @property
    def evaluations(self) -> int:
        """Of the field, for each token."""
        return sum(stretch.solver.evaluations * len(stretch.cells) for stretch in self.stretches)

    def check_prompt(self, prompt: Sequence[int]) -> list[int]:
        """The prompt's ids.

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
        """The state at t = 0 of ids at these positions, both [batch, tokens]."""
        x = F.embedding(ids, self.embedding)
        return x if self.positions is None else x + self.positions(positions)

    def solve(self, x: Tensor, field: Field) -> Tensor:
        """The state at t = 1 from that at t = 0, [batch, tokens, width]."""
        for stretch in self.stretches:
            if stretch.cells:
                state = stretch.solver.start(x)
                for cell, own in zip(stretch.cells, stretch.weights, strict=True):
                    state = stretch.solver.step(field, state, cell, own)
                x = stretch.solver.end(state).to(x.dtype)
        return x

    def unembed(self, x: Tensor) -> Tensor:
        """Logits [..., vocabulary] of states at t = 1, [..., width]."""
        assert self.final_norm is not None
        return F.linear(self.final_norm(x), self.unembedding)


def _column_major(weight: Tensor) -> Tensor:
    """A matrix [out, in] laid out by columns: a CPU multiplies one vector by it twice as fast."""
    return weight.T.contiguous().T if weight.ndim == 2 else weight


def _int8(weight: Tensor) -> Tensor:
    return cast(Tensor, Int8Matrix(weight)) if weight.ndim == 2 else weight


class CachedField:
    """A field whose attention also sees the keys and values of tokens that it moved earlier.

    Each of its evaluations in a solve has a memory of its own, for all evaluations of all cells: with any
    solver of fixed cells a token costs one pass, however many came before it.
    """

    def __init__(self, whole: Field, batch: int, capacity: int) -> None:
        self._whole, self._batch, self._capacity = whole, batch, capacity
        self._memories: list[tuple[Tensor, Tensor]] = []
        self.at(0, 0, None)

    def at(self, first: int, last: int, mask: Tensor | None) -> None:
        """From here on x holds the tokens ``first`` to before ``last``; ``mask`` says what each may see.

        Without one they see themselves and all before them.
        """
        self._first, self._last, self._mask, self._evaluation = first, last, mask, 0
        self._part = self._whole.part(first, last)

    def reorder(self, rows: Tensor) -> None:
        """Row i remembers from here on what row ``rows[i]`` does."""
        self._memories = [(keys[rows], values[rows]) for keys, values in self._memories]

    @property
    def speed(self) -> float:
        return self._whole.speed

    def part(self, first: int, last: int) -> Field:
        return self._whole.part(first, last)

    def heads(self, x: Tensor, w: BlockWeights) -> Heads:
        return self._part.heads(x, w)

    def attention(self, x: Tensor, w: BlockWeights) -> Tensor:
        seen = self._remember(self._part.heads(x, w))
        return project(join_heads(self.mix(seen)), w, "out")

    def _remember(self, heads: Heads) -> Heads:
        """The queries of these tokens, and the keys and values of all so far."""
        query, key, value = heads
        if self._evaluation == len(self._memories):
            shape = (self._batch, key.shape[1], self._capacity, key.shape[3])
            self._memories.append((key.new_zeros(shape), value.new_zeros(shape)))
        keys, values = self._memories[self._evaluation]
        self._evaluation += 1
        keys[:, :, self._first : self._last] = key
        values[:, :, self._first : self._last] = value
        return Heads(query, keys[:, :, : self._last], values[:, :, : self._last])

    def mix(self, heads: Heads) -> Tensor:
        """What the queries of these tokens take from all values so far, [batch, heads, new, head width]."""
        query, key, value = heads
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=self._mask,
            is_causal=self._mask is None and self._first == 0,
            enable_gqa=key.shape[1] < query.shape[1],
        )

    def feed_forward(self, x: Tensor, w: BlockWeights) -> Tensor:
        return self._part.feed_forward(x, w)

    def __call__(self, x: Tensor, w: BlockWeights) -> Tensor:
        return self.attention(x, w) + self.feed_forward(x, w)


class Decoder:
    """Reads tokens one after another, or many at once, and remembers what the next ones need of them.

    ``length`` is how many tokens each row has read; setting it back forgets those behind.
    """

    def __init__(self, at: FixedDepthModel, batch: int, capacity: int, padding: Tensor | None = None) -> None:
        """
        Args:
            at: the model at its depth.
            batch: rows.
            capacity: tokens that can be read, padding included; at most the context length.
            padding: how many of each row's first tokens stand for nothing, [batch]; none when not given.
        """
        assert at.config.context_length is None or capacity <= at.config.context_length
        self.length = 0
        self._at, self._capacity, self._padding = at, capacity, padding
        like = torch.empty(1, capacity, at.config.width, dtype=at.dtype, device=at.device)
        self._field = CachedField(build_field(at.config, like, training=False), batch, capacity)

    def read(self, ids: Tensor, last_only: bool = False) -> Tensor:
        """Logits of the tokens after each of ids [batch, tokens]: [batch, tokens, vocabulary].

        With ``last_only`` those after the last one alone, [batch, 1, vocabulary].

        Raises:
            FloatingPointError: for a state that is not finite.
        """
        first, last = self.length, self.length + ids.shape[1]
        assert last <= self._capacity, "more tokens than there is room for"
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
        """Let row i go on from what row ``rows[i]`` has read; rows [batch], int64."""
        self._field.reorder(rows)
        if self._padding is not None:
            self._padding = self._padding[rows]

    def _mask(self, first: int, last: int) -> Tensor | None:
        """Which of the tokens up to ``last`` those from ``first`` on see, [batch, 1, new, last]; None: all
        before them."""
        alone = last - first == 1
        if self._padding is None and (alone or first == 0):
            return None
        seen = torch.arange(last, device=self._at.device)
        seeing = seen[first:, None]
        mask = (seen <= seeing)[None, None]
        if self._padding is not None:
            # Padding sees itself, so that nothing is divided by zero.
            mask = mask & ((seen >= self._padding[:, None, None, None]) | (seen == seeing))
        return mask
