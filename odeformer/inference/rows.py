"""Continuous batching: rows join and leave a batch between steps, each with its own past and adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from odeformer.field import build_field
from odeformer.field.block import Block
from odeformer.field.rows import RowField
from odeformer.inference.decoding import FixedDepthModel, Stretch
from odeformer.lora import Adapter, EmbeddingPair, embeddings_side_by_side, side_by_side
from odeformer.model import Odeformer


@dataclass(eq=False)
class Row:
    """A sequence that is read or decoded."""

    ids: list[int]
    """All its tokens, the prompt's and the new ones."""
    adapter: Adapter | None = None
    read: int = 0
    """Number of tokens whose keys and values are stored."""


@dataclass
class _Weights:
    """The weights of a solve over several rows, and the change of their embeddings."""

    stretches: list[Stretch] | None
    embedding: EmbeddingPair | None


class DepthRows:
    """The rows that are decoded together at one depth N, each with an adapter of its own or none.

    The base's weights are shared; adapters are not merged into them. A prompt is read by itself, in parts,
    and its row then joins the batch.

    Args:
        model: the base, without an adapter.
        depth: N.
        most_rows: largest number of rows in the batch.
        capacity: largest number of tokens of a row; at most the context length.
    """

    def __init__(self, model: Odeformer, depth: int, most_rows: int, capacity: int) -> None:
        if model.hypernetwork.adapter is not None:
            raise ValueError("the base has an adapter attached: give it with the row instead")
        self.at, self.most_rows, self.capacity = FixedDepthModel(model, depth), most_rows, capacity
        self._times, _ = model.node_times(depth)
        self._tied = model.unembedding is None
        like = torch.empty(1, capacity, self.at.config.width, dtype=self.at.dtype, device=self.at.device)
        self._block = cast(Block, build_field(self.at.config, like, training=False))
        self._field = RowField(self._block, most_rows, capacity)
        self.rows: list[Row] = []
        """The rows of the batch."""
        self._weights = _Weights(None, None)

    @property
    def bytes_per_token(self) -> int:
        """Memory of a token's keys and values."""
        heads = self.at.config.groups * self.at.config.head_width
        return 2 * self.at.evaluations * heads * self.at.dtype.itemsize

    @torch.inference_mode()
    def read_prompt(self, row: Row, reading: RowField, at_once: int) -> Tensor:
        """Read up to ``at_once`` tokens of a row that has not joined.

        Args:
            row: the row.
            reading: the keys and values of what it has read, from :meth:`start`.
            at_once: number of tokens; fewer do not keep others waiting for long.

        Returns:
            The logits after each of the tokens that were read now, [tokens, vocabulary].
        """
        last = min(len(row.ids), row.read + at_once)
        ids = torch.tensor([row.ids[row.read : last]], device=self.at.device)
        positions = torch.arange(row.read, last, device=self.at.device)[None]
        logits = self._solve(ids, positions, last, reading, self._weights_for([row]))
        row.read = last
        return logits[0]

    def start(self) -> RowField:
        """Room for the keys and values of a prompt."""
        return RowField(self._block, 1, self.capacity)

    @torch.inference_mode()
    def join(self, row: Row, reading: RowField) -> None:
        """Add a row whose prompt has been read to the batch."""
        assert len(self.rows) < self.most_rows, "the batch is full"
        place = len(self.rows)
        self._copy(reading.entries, 0, place, row.read)
        self.rows.append(row)
        self._weights = self._weights_for(self.rows)

    @torch.inference_mode()
    def leave(self, row: Row) -> None:
        """Remove a row; the last one takes its place."""
        place, moved = self.rows.index(row), self.rows.pop()
        if moved is not row:
            self.rows[place] = moved
            self._copy(self._field.entries, len(self.rows), place, moved.read)
        self._weights = self._weights_for(self.rows)

    @torch.inference_mode()
    def step(self) -> Tensor:
        """Read the newest token of every row; the logits of the next ones, [rows, vocabulary]."""
        positions = torch.tensor([[row.read] for row in self.rows], device=self.at.device)
        ids = torch.tensor([[row.ids[row.read]] for row in self.rows], device=self.at.device)
        last = 1 + max(row.read for row in self.rows)
        logits = self._solve(ids, positions, last, self._field, self._weights)[:, -1]
        for row in self.rows:
            row.read += 1
        return logits

    def _solve(self, ids: Tensor, positions: Tensor, last: int, field: RowField, weights: _Weights) -> Tensor:
        field.at(positions, last)
        x, pair = self.at.embed(ids, positions), weights.embedding
        if pair is not None:
            x = x + pair.rows(ids)
        x = self.at.solve(x, field, weights.stretches)
        if pair is None or not self._tied:
            return self.at.unembed(x)
        assert self.at.final_norm is not None
        return pair.logits(self.at.final_norm(x), self.at.embedding)

    def _weights_for(self, rows: Sequence[Row]) -> _Weights:
        """The weights of a solve over these rows: the base's, and the pairs of each row's adapter."""
        adapters = [row.adapter for row in rows]
        some = next((adapter for adapter in adapters if adapter is not None), None)
        if some is None:
            return _Weights(None, None)
        # A row without an adapter gets one that changes nothing.
        zero = Adapter(some.config, self.at.config).to(self.at.device)
        for parameter in zero.parameters():
            parameter.zero_()
        whole = [adapter or zero for adapter in adapters]
        pairs = side_by_side(whole, self._times)
        base = [stretch.weights for stretch in self.at.stretches]
        stretches = self.at.stretches_with(pairs)
        for stretch, cells in zip(stretches, base, strict=True):
            for with_pairs, of_base in zip(stretch.weights, cells, strict=True):
                for at_node, base_at_node in zip(with_pairs, of_base, strict=True):
                    at_node.update(base_at_node)
        return _Weights(stretches, embeddings_side_by_side(whole))

    def _copy(self, source: list[tuple[Tensor, Tensor]], row: int, to: int, length: int) -> None:
        """Copy the keys and values of a row's first ``length`` tokens to a row of the batch."""
        entries = self._field.entries
        for number, kept in enumerate(source):
            if number == len(entries):
                shape = (self.most_rows, *kept[0].shape[1:])
                entries.append((kept[0].new_zeros(shape), kept[1].new_zeros(shape)))
            for stored, own in zip(entries[number], kept, strict=True):
                stored[to, :, :length] = own[row, :, :length]
                stored[to, :, length:] = 0  # what is masked must still be finite
