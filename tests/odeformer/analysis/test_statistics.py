"""The test of two means against enumeration, its p-values where nothing differs, Holm's against paper."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from scipy import stats

from odeformer.analysis import statistics
from odeformer.analysis.statistics import bootstrap_difference, holm, permutation_test


def drawn(count: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_statistic_is_that_of_welch() -> None:
    first, second = drawn(9, 0), drawn(14, 1, scale=3) + 1
    found = permutation_test(first, second)
    expected = stats.ttest_ind(second.numpy(), first.numpy(), equal_var=False)
    assert found.statistic == pytest.approx(float(expected.statistic), rel=1e-9)
    assert found.p == pytest.approx(float(expected.pvalue), abs=0.03)


def test_few_values_are_dealt_out_in_every_way() -> None:
    first, second = drawn(4, 2), drawn(5, 3) + 0.8
    values = torch.cat([first, second])

    def welch(chosen: tuple[int, ...]) -> float:
        one = values[list(chosen)].numpy()
        other = values[[i for i in range(9) if i not in chosen]].numpy()
        return abs(float(stats.ttest_ind(other, one, equal_var=False).statistic))

    found = welch((0, 1, 2, 3))
    ways = [welch(chosen) for chosen in combinations(range(9), 4)]
    expected = sum(way >= found - 1e-9 for way in ways) / len(ways)
    assert permutation_test(first, second).p == pytest.approx(expected)


def test_p_values_are_uniform_where_nothing_differs_and_small_where_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics, "PERMUTATIONS", 999)
    p = [permutation_test(drawn(10, 2 * k), drawn(12, 2 * k + 1)).p for k in range(150)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert sum(value <= 0.05 for value in p) <= 15
    shifted = [permutation_test(drawn(16, 2 * k), drawn(16, 2 * k + 1) + 2).p for k in range(20)]
    assert max(shifted) < 0.01


def test_other_spread_is_no_other_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few values of large spread against many of small: the unstudentized test would see a move far too
    often."""
    monkeypatch.setattr(statistics, "PERMUTATIONS", 999)
    p = [permutation_test(drawn(8, 2 * k, scale=5), drawn(32, 2 * k + 1)).p for k in range(120)]
    assert sum(value <= 0.05 for value in p) <= 14


def test_values_without_spread_have_a_test_too() -> None:
    same = torch.full((8,), 0.1, dtype=torch.float64)
    assert permutation_test(same, same.clone()) == (0.0, 1.0)
    apart = permutation_test(same, same + 1)
    assert 1e9 < apart.statistic < float("inf"), "JSON has no infinity"
    assert apart.p < 0.001
    assert permutation_test(same[:4], same[:4] + 1).p == pytest.approx(2 / 70), "two of all 70 ways"
    some = drawn(20, 0)
    assert permutation_test(some, some).p == 1.0
    with pytest.raises(ValueError, match="at least 2 values of each sample, got 8 and 1"):
        permutation_test(same, same[:1])


def test_holm_by_hand() -> None:
    """0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, and none below the one before it."""
    found = holm({"c": 0.03, "a": 0.01, "d": 0.04, "b": 0.02})
    assert list(found) == ["c", "a", "d", "b"]
    assert [found[name] for name in "abcd"] == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm({"a": 0.7, "b": 0.6}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_the_interval_of_a_difference_has_the_width_of_its_standard_error() -> None:
    first, second = drawn(300, 4), drawn(200, 5, scale=2) + 3
    found = bootstrap_difference(first, second)
    half = 1.96 * float((first.var() / 300 + second.var() / 200).sqrt())
    assert found.mean == pytest.approx(float(second.mean() - first.mean()))
    assert found.high - found.mean == pytest.approx(half, rel=0.15)
    assert found.mean - found.low == pytest.approx(half, rel=0.15)
    with pytest.raises(ValueError, match="at least 2 values"):
        bootstrap_difference(first, second[:1])
