"""The cost of a depth, as computed FLOPs and measured milliseconds, and the depth that fits a budget."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch

from odeformer.config import BasisConfig, ModelConfig
from odeformer.hypernetwork import depth_parameters
from odeformer.inference.decoding import Decoder, FixedDepthModel
from odeformer.model import Odeformer
from odeformer.solvers import layer_solver_name, solver_named

Key = TypeVar("Key")


def cell_flops(config: ModelConfig, sequence_length: int) -> float:
    """Forward FLOPs per token of one evaluation of the field, in a sequence of the given length.

    They are 2 per weight of the block, plus causal attention: two matmuls over half of the scores.
    """
    block = config.model_copy(update={"depth": 1, "basis": BasisConfig(kind="none", size=1)})
    return 2.0 * depth_parameters(block) + 2.0 * config.width * sequence_length


def unembedding_flops(config: ModelConfig) -> float:
    """Forward FLOPs per token of the output matrix."""
    return 2.0 * config.width * (config.vocabulary_size or 0)


def forward_flops(config: ModelConfig, solver: str, depth: int, sequence_length: int) -> float:
    """FLOPs of a forward pass at N cells over one sequence, without generating W(t)."""
    flow = solver_named(solver)
    prelude = solver_named(layer_solver_name(solver, config.default_solver))
    early = config.prelude_layers
    evaluations = early * prelude.evaluations + (depth - early) * flow.evaluations
    cell, last = cell_flops(config, sequence_length), unembedding_flops(config)
    return sequence_length * (evaluations * cell + last)


class DepthCost(NamedTuple):
    """The cost of a forward pass at one depth, without generating W(t)."""

    depth: int
    milliseconds: float
    flops: float


@dataclass(frozen=True)
class CostTable:
    """The cost of each depth on one machine, for one batch shape."""

    rows: tuple[DepthCost, ...]

    def depth_for(self, latency_ms: float) -> int:
        """The largest depth in the table within a budget of milliseconds.

        Raises:
            ValueError: if no depth is within it.
        """
        within = [row.depth for row in self.rows if row.milliseconds <= latency_ms]
        if not within:
            least = min(self.rows, key=lambda row: row.milliseconds)
            raise ValueError(
                f"a budget of {latency_ms:g} milliseconds is too small: depth {least.depth} takes "
                f"{least.milliseconds:g}"
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
    """Measure the forward pass at several depths, on the model's device.

    Args:
        model: the model.
        depths: the depths, which are timed in turn.
        batch: number of sequences in the batch.
        sequence_length: number of tokens per sequence.
        rounds: number of measurements per depth, after one for warming up.
        of_rounds: the statistic of these measurements; ``min`` is more robust on a shared machine.
    """
    device = model.embedding.weight.device
    ids = torch.randint(model.config.vocabulary_size or 0, (batch, sequence_length), device=device)
    weights = {depth: model.depth_weights(depth) for depth in depths}

    def run(depth: int) -> None:
        model(ids, depth=depth, weights=weights[depth])
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    seconds = seconds_in_turn(sorted(depths), run, rounds)
    rows = []
    for depth in sorted(depths):
        flops = batch * forward_flops(model.config, model.solver, depth, sequence_length)
        rows.append(DepthCost(depth, 1e3 * of_rounds(seconds[depth]), flops))
    return CostTable(tuple(rows))


def seconds_in_turn(keys: Sequence[Key], run: Callable[[Key], object], rounds: int) -> dict[Key, list[float]]:
    """Time ``run`` for each key in turn, ``rounds`` times after one round for warming up."""
    seconds: dict[Key, list[float]] = {key: [] for key in keys}
    for turn in range(rounds + 1):
        for key in keys:
            started = time.perf_counter()
            run(key)
            if turn:
                seconds[key].append(time.perf_counter() - started)
    return seconds


@torch.inference_mode()
def measure_decoding(model: Odeformer, rounds: int = 15, int8: bool = False) -> CostTable:
    """Measure decoding one token after half a context of others (at most 512), at depths from 1/4 D to 2D.

    Args:
        model: the model.
        rounds: number of measurements per depth, after one for warming up; the table has their median.
        int8: whether to quantize, as in :class:`odeformer.inference.decoding.FixedDepthModel`.
    """
    config = model.config
    assert config.context_length is not None
    least = config.prelude_layers + 1
    depths = sorted({max(least, config.depth * part // 4) for part in (1, 2, 3, 4, 6, 8)})
    length = min(config.context_length // 2, 512)
    at = {depth: FixedDepthModel(model, depth, int8=int8) for depth in depths}
    decoders = {depth: Decoder(at[depth], 1, length + 1) for depth in depths}
    ids = torch.zeros(1, length, dtype=torch.long, device=model.embedding.weight.device)
    for decoder in decoders.values():
        decoder.read(ids, last_only=True)

    def read_one(depth: int) -> None:
        decoders[depth].length = length
        int(decoders[depth].read(ids[:, :1])[0, -1].argmax())  # choosing the token waits for an accelerator

    seconds = seconds_in_turn(depths, read_one, rounds)
    # The last token of a sequence attends to twice as many tokens as the average one.
    cell, last = cell_flops(config, 2 * length), unembedding_flops(config)
    return CostTable(
        tuple(
            DepthCost(depth, 1e3 * statistics.median(seconds[depth]), at[depth].evaluations * cell + last)
            for depth in depths
        )
    )
