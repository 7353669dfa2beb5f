"""The stream of pretraining batches, from one data folder or a mixture of several."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.elastic import Batch, ElasticStream
from data.files import CACHE_BYTES, CachedFiles
from data.manifest import SplitName
from data.mixture import Mixture, Part
from data.order import STREAMS, groups
from data.reader import DamagedError
from data.schedule import MixedOrder, Plan
from data.source import Source, check_they_mix

TOKENS_AT_ONCE = 2**20
"""Tokens that a rank reads together, since reading many batches at once is faster."""


class MixedStream(ElasticStream):
    """Pretraining batches from a mixture of data folders.

    The mixture may change between two parts of a run: a state that was saved with another one is continued
    with this one from its position on, where each source goes on with the samples that it has not given yet.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        mixture: Mixture,
        *,
        rank: int,
        world_size: int,
        global_batch: int,
        start: int = 0,
        skip_damaged: bool = False,
        may_change: bool = True,
    ) -> None:
        """Start at a position of the global order.

        Args:
            sources: the sources, in the order of the mixture's.
            mixture: their weights.
            rank: this rank, from 0 to ``world_size`` − 1.
            world_size: number of ranks.
            global_batch: samples per batch, over all ranks.
            start: number of samples to skip at the start of the order.
            skip_damaged: whether to replace a damaged sample by end-of-text tokens that do not count in the
                loss; otherwise it is an error.
            may_change: whether a state that was saved with another mixture may be loaded.

        Raises:
            ValueError: for a batch that the ranks cannot share equally.
        """
        check_they_mix(sources)
        self.parts: tuple[Part, ...] = (Part(begin=0, mixture=mixture),)
        """The parts of the run up to here, of which the last one has this stream's mixture."""
        self._sources, self._mixture, self._may_change = sources, mixture, may_change
        length = sources[0].manifest.sequence_length
        rows = min(sum(source.order.sequences for source in sources), TOKENS_AT_ONCE // length)
        order = MixedOrder([source.order for source in sources], Plan(mixture))
        super().__init__(
            order,
            mixture.digest,
            rank,
            world_size,
            global_batch,
            at_once=max(1, rows * world_size // max(1, global_batch)),
            skip_damaged=skip_damaged,
        )
        self._order: MixedOrder = order
        self._cursor = start

    def sequence_rows(self, ids: torch.Tensor | np.ndarray) -> torch.Tensor:
        """The tokens of the samples with these ids: int64 [n] → int64 [n, sequence_length + 1]."""
        rows, damage = self._rows(np.asarray(ids))
        if damage:
            raise next(iter(damage.values()))
        return torch.from_numpy(rows)

    def sources_of(self, ids: torch.Tensor | np.ndarray) -> torch.Tensor:
        """The index of the source of each sample: int64 [n] → int64 [n]."""
        return torch.from_numpy(np.searchsorted(self._order.offsets, np.asarray(ids), side="right") - 1)

    def spread_ids(self, count: int) -> torch.Tensor:
        """Ids of about ``count`` samples in all, int64 [n]: equal numbers of each source, spread evenly."""
        ids = []
        for source, offset in zip(self._sources, self._order.offsets.tolist(), strict=False):
            most = min(max(1, count // len(self._sources)), source.order.sequences)
            ids.append(offset + torch.linspace(0, source.order.sequences - 1, most).long())
        return torch.cat(ids)

    def state_dict(self) -> dict[str, Any]:
        """The cursor, the order's digest and, unless it has always been one source, the parts of the run."""
        state = super().state_dict()
        if len(self.parts) == 1 and self._is_one:
            return state
        return {**state, "parts": [part.model_dump(mode="json") for part in self.parts]}

    @property
    def _is_one(self) -> bool:
        return self._digest == self._sources[0].digest

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state. With another mixture than the state's, a new part of the run begins.

        Raises:
            ValueError: for a state of another order if the mixture may not change, or a damaged one.
        """
        order = str(state.get("order"))
        super().load_state_dict({**state, "order": self._digest} if self._may_change else state)
        shards = next((source.shards for source in self._sources if source.digest == order), "")
        before = state.get("parts") or [Part(begin=0, mixture=Mixture.of_one(shards, order))]
        parts = [Part.model_validate(part) for part in before]
        if parts[-1].mixture.digest != self._digest:
            if parts[-1].begin == self._cursor:  # of which nothing has been trained on
                parts.pop()
            parts.append(Part(begin=self._cursor if parts else 0, mixture=self._mixture))
        taken: dict[str, int] = {}
        for part, later in pairwise(parts):
            taken |= Plan(part.mixture, part.begin, taken).taken(later.begin)
        plan = Plan(parts[-1].mixture, parts[-1].begin, taken)
        self.parts = tuple(parts)
        self._order = MixedOrder([source.order for source in self._sources], plan)

    @property
    def end(self) -> int | None:
        """The global position at which the data end, if they do."""
        return self._order.plan.end

    def why_ended(self) -> str:
        ended_by = self._order.plan.ended_by
        if ended_by is None:
            return "all sources have reached their data.sources.epochs"
        return f"source {ended_by.name} has reached its data.sources.epochs"

    def _make(self, cursor: int) -> list[Batch]:
        for later in (cursor, cursor + STREAMS * self._sources[0].block):
            self._fetch_ahead(later)
        return super()._make(cursor)

    def _fetch_ahead(self, cursor: int) -> None:
        """Start downloading remote shards of the batches from a cursor on, long before they are due."""
        if any(isinstance(source.files, CachedFiles) for source in self._sources):
            for source, places in self._by_source(ids := self._own_ids(cursor).reshape(-1)):
                self._sources[source].fetch_ahead(ids[places] - self._order.offsets[source])

    def _by_source(self, ids: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """The sources of samples, each with their positions in ``ids``."""
        sources = self.sources_of(ids).numpy()
        return [(int(sources[places[0]]), places) for places in groups(sources)]

    def _rows(self, ids: np.ndarray) -> tuple[np.ndarray, dict[int, DamagedError]]:
        """The tokens of samples, int64 [n, sequence_length + 1], and an error for each damaged position."""
        manifest = self._sources[0].manifest
        rows = np.empty((len(ids), manifest.sequence_length + 1), dtype=manifest.dtype)
        damage: dict[int, DamagedError] = {}
        for source, places in self._by_source(ids):
            own = ids[places] - self._order.offsets[source]
            damage |= self._sources[source].reader.read_into(rows, places, own)
        # Gathering in the stored dtype and converting once takes half the time.
        return rows.astype(np.int64), damage

    def _batches(self, ids: np.ndarray) -> list[Batch]:
        rows, damage = self._rows(ids.reshape(-1))
        reasons: list[dict[int, str]] = [{} for _ in ids]
        for place, error in damage.items():
            batch, row = divmod(place, ids.shape[1])
            reasons[batch][row] = f"sample {ids[batch, row]}: {error}"
        tokens, sources = torch.from_numpy(rows.reshape(*ids.shape, -1)), self.sources_of(ids)
        batches = zip(tokens, torch.from_numpy(ids), sources, reasons, strict=True)
        return [_batch(*parts) for parts in batches]


def _batch(tokens: torch.Tensor, ids: torch.Tensor, sources: torch.Tensor, damaged: dict[int, str]) -> Batch:
    """Rows [share, sequence_length + 1] as a batch, whose loss mask excludes the damaged ones."""
    mask = None
    if damaged:
        mask = torch.ones_like(tokens[:, 1:], dtype=torch.bool)
        mask[list(damaged)] = False
    return Batch(tokens, ids, mask, tuple(damaged.values()), sources=sources)


class ShardStream(MixedStream):
    """Pretraining batches from a single data folder, which may be remote."""

    def __init__(
        self,
        manifest_path: Path | str,
        *,
        rank: int,
        world_size: int,
        global_batch: int,
        sequence_length: int,
        seed: int,
        split: SplitName = "train",
        start: int = 0,
        skip_damaged: bool = False,
        cache: Path = Path("~/.cache/odeformer/shards"),
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Open a data folder; the arguments are those of :class:`Source` and :class:`MixedStream`.

        Raises:
            FileNotFoundError: if there is no manifest.
            ValueError: for damaged files, a sequence length other than the manifest's, or a batch that the
                ranks cannot share equally.
        """
        source = Source(
            manifest_path,
            split,
            reader=f"{rank}-of-{world_size}",
            sequence_length=sequence_length,
            seed=seed,
            cache=cache,
            cache_bytes=cache_bytes,
        )
        super().__init__(
            [source],
            Mixture.of_one(source.shards, source.digest),
            rank=rank,
            world_size=world_size,
            global_batch=global_batch,
            start=start,
            skip_damaged=skip_damaged,
            may_change=False,
        )
