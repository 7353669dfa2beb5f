"""What a depth costs, against a profiler's count and by hand; the depth that a budget buys."""

import pytest
import torch
from tiny_models import VOCABULARY, ids, tiny_model
from torch.utils.flop_counter import FlopCounterMode

from odeformer.measure.cost import (
    CostTable,
    DepthCost,
    cell_flops,
    measure_decoding,
    measure_depths,
    unembedding_flops,
)
from odeformer.model import SolveOptions

TABLE = CostTable((DepthCost(2, 1.0, 100.0), DepthCost(4, 1.9, 180.0), DepthCost(8, 3.5, 340.0)))


def test_flops_are_those_that_torch_counts() -> None:
    model = tiny_model(width=32, heads=2)
    tokens = ids(batch=1, length=16)
    weights = model.depth_weights(4)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(tokens, depth=4, weights=weights)
    mine = 16 * (4 * cell_flops(model.config, 16) + unembedding_flops(model.config))
    # Ours counts vectors as weights too, and scores above the diagonal not at all.
    assert counter.get_total_flops() == pytest.approx(mine, rel=0.1)


@pytest.mark.parametrize(("latency_ms", "depth"), [(1.0, 2), (3.4, 4), (99.0, 8)])
def test_the_greatest_depth_within_the_budget_is_chosen(latency_ms: float, depth: int) -> None:
    assert TABLE.depth_for(latency_ms) == depth


def test_a_budget_that_buys_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.5 milliseconds is too small: depth 2 takes 1"):
        TABLE.depth_for(0.5)


def test_a_measured_table_has_every_depth_and_counts_evaluations() -> None:
    model = tiny_model()
    model.options = SolveOptions("midpoint")
    table = measure_depths(model, (8, 2), batch=2, sequence_length=12, rounds=1)
    assert [row.depth for row in table.rows] == [2, 8]
    assert all(row.milliseconds > 0 for row in table.rows)
    cells = cell_flops(model.config, 12)
    assert table.rows[1].flops - table.rows[0].flops == pytest.approx(2 * 12 * 6 * 2 * cells)
    # The prelude's layer is one evaluation with any solver.
    assert table.rows[0].flops == pytest.approx(2 * 12 * (3 * cells + unembedding_flops(model.config)))


def test_decoding_costs_are_those_of_the_last_token() -> None:
    model = tiny_model(context_length=16).eval()
    for solver, evaluations in (("euler", 1), ("rk4", 4)):
        model.options = SolveOptions(solver)
        table = measure_decoding(model, rounds=1)
        behind, width, block = 8, 16, 12 * 16 * 16 + 13 * 16
        for row in table.rows:
            passes = 1 + evaluations * (row.depth - 1)
            expected = passes * (2 * block + 4 * width * behind) + 2 * width * VOCABULARY
            assert row.flops == expected
        assert [row.depth for row in table.rows] == [2, 3, 4, 6, 8]
