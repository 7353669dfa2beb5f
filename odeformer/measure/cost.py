"""What a depth costs: FLOPs by formula, milliseconds by measurement; and the depth that a budget buys."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from odeformer.config import BasisConfig, ModelConfig
from odeformer.hypernetwork import depth_parameters
from odeformer.inference.decoding import Decoder, FixedDepthModel
from odeformer.model import Odeformer
from odeformer.solvers import layer_solver_name, solver_named


def cell_flops(config: ModelConfig, sequence_length: int) -> float:
    """Forward FLOPs of one evaluation of the field, for each token of a sequence of that length.

    2 for each of the block's weights, and causal attention's: half of the scores, in two products.
    """
    one = config.model_copy(update={"depth": 1, "basis": BasisConfig(kind="none", size=1)})
    return 2.0 * depth_parameters(one) + 2.0 * config.width * sequence_length


def unembedding_flops(config: ModelConfig) -> float:
    """Forward FLOPs of the output matrix for each token."""
    return 2.0 * config.width * (config.vocabulary_size or 0)


def forward_flops(config: ModelConfig, solver: str, depth: int, sequence_length: int) -> float:
    """Of a forward pass at N cells over one sequence, its weights W(t) made beforehand."""
    flow = solver_named(solver)
    prelude = solver_named(layer_solver_name(solver, config.default_solver))
    early = config.prelude_layers
    evaluations = early * prelude.evaluations + (depth - early) * flow.evaluations
    cell, last = cell_flops(config, sequence_length), unembedding_flops(config)
    return sequence_length * (evaluations * cell + last)


class DepthCost(NamedTuple):
    """Of one forward pass at N cells, its weights W(t) made beforehand."""

    depth: int
    milliseconds: float
    flops: float


@dataclass(frozen=True)
class CostTable:
    """What each depth costs on one machine, for one shape of batch."""

    rows: tuple[DepthCost, ...]

    def depth_for(self, *, latency_ms: float | None = None, flops: float | None = None) -> int:
        """The greatest depth in the table whose forward pass keeps to the budget.

        Raises:
            ValueError: unless exactly one budget is given, or when none of the depths keeps to it.
        """
        if (latency_ms is None) == (flops is None):
            raise ValueError("give either latency_ms or flops")
        what, budget = ("milliseconds", latency_ms) if flops is None else ("flops", flops)
        within = [row.depth for row in self.rows if getattr(row, what) <= budget]
        if not within:
            least = min(self.rows, key=lambda row: getattr(row, what))
            raise ValueError(
                f"a budget of {budget:g} {what} is too small: depth {least.depth} takes "
                f"{getattr(least, what):g}"
            )
        return max(within)


@torch.no_grad()
def measure_depths(
    model: Odeformer,
    depths: Sequence[int],
    *,
    batch: int,
    sequence_length: int,
    rounds: int = 7,
    of_rounds: Callable[[list[float]], float] = statistics.median,
) -> CostTable:
    """The table for batches of ``batch`` sequences of ``sequence_length`` tokens, on the model's device.

    Depths are timed in turn, ``rounds`` times after one to warm up; milliseconds are medians, or what else
    ``of_rounds`` makes of them: ``min`` where others use the machine, too.
    """
    device = model.embedding.weight.device
    ids = torch.randint(model.config.vocabulary_size or 0, (batch, sequence_length), device=device)
    weights = {depth: model.depth_weights(depth) for depth in depths}
    seconds: dict[int, list[float]] = {depth: [] for depth in depths}
    evaluations: dict[int, int] = {}
    for turn in range(rounds + 1):
        for depth in depths:
            started = time.perf_counter()
            output = model(ids, depth=depth, weights=weights[depth])
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                seconds[depth].append(time.perf_counter() - started)
            evaluations[depth] = sum(output.evaluations)
    cell, last = cell_flops(model.config, sequence_length), unembedding_flops(model.config)
    return CostTable(
        tuple(
            DepthCost(
                depth,
                1e3 * of_rounds(seconds[depth]),
                sequence_length * (evaluations[depth] * cell + batch * last),
            )
            for depth in sorted(depths)
        )
    )


@torch.inference_mode()
def measure_decoding(model: Odeformer, rounds: int = 15, int8: bool = False) -> CostTable:
    """What one more token costs at depths from the least to 2D, behind half a context of others.

    At most 512 of them. Depths are timed in turn; milliseconds are medians. ``int8`` as for
    :class:`odeformer.inference.decoding.FixedDepthModel`.
    """
    config = model.config
    assert config.context_length is not None
    least = config.prelude_layers + 1
    depths = sorted({max(least, config.depth * part // 4) for part in (1, 2, 3, 4, 6, 8)})
    behind = min(config.context_length // 2, 512)
    at = {depth: FixedDepthModel(model, depth, int8=int8) for depth in depths}
    readers = {depth: Decoder(at[depth], 1, behind + 1) for depth in depths}
    ids = torch.zeros(1, behind, dtype=torch.long, device=model.embedding.weight.device)
    seconds: dict[int, list[float]] = {depth: [] for depth in depths}
    for turn in range(rounds + 1):
        for depth, reader in readers.items():
            if not turn:
                reader.read(ids, last_only=True)
            reader.length = behind
            started = time.perf_counter()
            int(reader.read(ids[:, :1])[0, -1].argmax())  # as a token is chosen: waits for an accelerator
            if turn:
                seconds[depth].append(time.perf_counter() - started)
    # The last token of a sequence sees twice as many as one sees on average.
    cell, last = cell_flops(config, 2 * behind), unembedding_flops(config)
    return CostTable(
        tuple(
            DepthCost(depth, 1e3 * statistics.median(seconds[depth]), at[depth].evaluations * cell + last)
            for depth in depths
        )
    )
