from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import run_python

from odeformer.depth import as_grid, batch_depth, layered_grid, uniform_grid

DEPTHS = (4, 6, 8, 8, 10, 12)


@given(cells=st.integers(1, 500))
def test_uniform_grid_has_n_equal_cells_from_0_to_1(cells: int) -> None:
    grid = uniform_grid(cells)
    assert len(grid) == cells + 1
    assert (grid[0], grid[-1]) == (0.0, 1.0)
    assert all(abs((right - left) * cells - 1) < 1e-12 * cells for left, right in pairwise(grid))


@pytest.mark.parametrize("cells", [0, -1])
def test_a_grid_needs_a_cell(cells: int) -> None:
    with pytest.raises(ValueError, match=f"depth {cells} "):
        uniform_grid(cells)


def test_batch_depth_does_not_depend_on_the_order_of_calls() -> None:
    forward = [batch_depth(7, step, DEPTHS) for step in range(50)]
    backward = [batch_depth(7, step, DEPTHS) for step in reversed(range(50))]
    assert forward == backward[::-1]


def test_batch_depth_leaves_the_global_generator_alone() -> None:
    import random

    random.seed(1)
    before = random.getstate()
    batch_depth(0, 0, DEPTHS)
    assert random.getstate() == before


def test_batch_depth_is_the_same_in_every_process() -> None:
    here = [batch_depth(seed, step, DEPTHS) for seed in (0, 1) for step in range(40)]
    code = (
        "from odeformer.depth import batch_depth\n"
        f"print([batch_depth(seed, step, {DEPTHS}) for seed in (0, 1) for step in range(40)])"
    )
    for hash_seed in ("0", "1", "4242"):
        assert run_python(code, PYTHONHASHSEED=hash_seed).strip() == str(here)


def test_batch_depth_never_changes() -> None:
    # Written down once: a run resumed on another machine or Python must draw the same depths.
    assert [batch_depth(0, step, DEPTHS) for step in range(12)] == [4, 12, 6, 10, 10, 12, 8, 10, 4, 8, 4, 4]


def test_seeds_and_steps_matter() -> None:
    def drawn(seed: int, start: int) -> list[int]:
        return [batch_depth(seed, step, DEPTHS) for step in range(start, start + 40)]

    # (1, 11) and (11, 1) must not be the same draw either.
    assert len({tuple(drawn(*key)) for key in ((0, 0), (1, 0), (0, 1), (1, 11), (11, 1))}) == 5


def test_batch_depth_draws_in_proportion_and_counts_repeats() -> None:
    draws = 6000
    counts = Counter(batch_depth(3, step, DEPTHS) for step in range(draws))
    assert set(counts) == set(DEPTHS)
    for depth, times in Counter(DEPTHS).items():
        share = times / len(DEPTHS)
        deviation = (draws * share * (1 - share)) ** 0.5
        assert abs(counts[depth] - draws * share) < 4 * deviation


@pytest.mark.parametrize(
    "edges", [(0.0,), (0.0, 0.5), (0.1, 1.0), (0.0, 0.6, 0.5, 1.0), (0.0, 0.5, 0.5, 1.0)]
)
def test_a_grid_must_rise_from_0_to_1(edges: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="rise from"):
        as_grid(edges, 0, 4)
    assert as_grid(2, 0, 4) == as_grid((0.0, 0.5, 1.0), 0, 4) == (0.0, 0.5, 1.0)


@given(model_depth=st.integers(2, 60), prelude=st.integers(0, 3), cells=st.integers(1, 200))
def test_the_prelude_keeps_its_width_at_every_depth(model_depth: int, prelude: int, cells: int) -> None:
    if cells <= prelude:
        with pytest.raises(ValueError, match=f"depth {cells} is too small: at least {prelude + 1} cell"):
            layered_grid(cells, prelude, model_depth)
        return
    prelude = min(prelude, model_depth - 1)
    grid = layered_grid(cells, prelude, model_depth)
    assert len(grid) == cells + 1
    assert grid[: prelude + 1] == tuple(i / model_depth for i in range(prelude + 1))
    assert grid[-1] == 1.0
    widths = [right - left for left, right in pairwise(grid[prelude:])]
    assert max(widths) - min(widths) < 1e-12
    # At N = D nothing tells the prelude from the rest.
    assert layered_grid(model_depth, prelude, model_depth) == uniform_grid(model_depth)


def test_a_given_grid_must_have_the_cells_of_the_prelude() -> None:
    assert as_grid((0.0, 0.25, 0.3, 1.0), 1, 4) == (0.0, 0.25, 0.3, 1.0)
    for edges in ((0.0, 0.3, 1.0), (0.0, 1.0)):
        with pytest.raises(ValueError, match=r"begins with its prelude's edges, \[0.0, 0.25\]"):
            as_grid(edges, 1, 4)


def test_more_layers_than_anything_has_are_refused() -> None:
    assert len(as_grid(4096, 1, 4)) == 4097
    for depth in (4097, 10**30):
        with pytest.raises(ValueError, match=f"depth {depth} is too large: at most 4096 layers"):
            as_grid(depth, 1, 4)
    assert len(as_grid(8000, 0, 500)) == 8001
