from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import run_python

from odeformer.depth import batch_depth, uniform_grid

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
