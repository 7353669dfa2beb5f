"""The schedule of a mixture against a plain loop, and the order of one source against what it was."""

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.mixture import LONGEST_PERIOD, MixedSource, Mixture, Stage, whole_weights
from data.order import GlobalOrder
from data.schedule import MixedOrder, Plan, schedule

WEIGHTS = st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any)


class Taken(NamedTuple):
    """What a plain loop finds at each position, and how the loop ended."""

    samples: list[tuple[int, int]]
    """Source and number of its sample."""
    ended_by: str | None = ""
    """The source that ended the data, ``None`` for all, empty if they did not end."""


def plain_loop(
    mixture: Mixture, positions: int, begin: int = 0, taken: dict[str, int] | None = None
) -> Taken:
    """Walk over the positions one by one: of the sources that may not be later, take the most urgent one."""
    had = [(taken or {}).get(source.order, 0) for source in mixture.sources]
    samples: list[tuple[int, int]] = []
    shares: list[Fraction] = []
    since: list[int] = []
    before: list[int] | None = None
    for position in range(begin, begin + positions):
        [*_, stage] = [stage for stage in mixture.stages if stage.begin <= position]
        limited = zip(mixture.sources, had, stage.weights, strict=True)
        weights = [w if s.limit is None or n < s.limit else 0 for s, n, w in limited]
        asked = zip(mixture.sources, weights, stage.weights, strict=True)
        if stopping := [source.name for source, w, wanted in asked if wanted and not w and source.stops]:
            return Taken(samples, stopping[0])
        if not any(weights):
            return Taken(samples, None)
        if weights != before or position == stage.begin:
            before, since = weights, [0] * len(weights)
            shares = [Fraction(weight, sum(weights)) for weight in weights]
        turn, few = sum(since) + 1, Fraction(1, max(1, 2 * (len(weights) - weights.count(0)) - 2))
        ready = [i for i, w in enumerate(weights) if w and shares[i] * turn - since[i] >= min(few, shares[i])]
        chosen = min(ready, key=lambda i: ((since[i] + 1 - few) / shares[i], i))
        samples.append((chosen, had[chosen]))
        had[chosen] += 1
        since[chosen] += 1
    return Taken(samples)


def a_mixture(
    stages: Sequence[tuple[int, Sequence[int]]],
    limits: Sequence[int | None] | None = None,
    stops: Sequence[bool] | None = None,
) -> Mixture:
    count = len(stages[0][1])
    kinds = zip("abcdef"[:count], limits or [None] * count, stops or [False] * count, strict=True)
    return Mixture(
        sources=tuple(
            MixedSource(name=name, shards=f"/{name}", order=name, limit=limit, stops=stop)
            for name, limit, stop in kinds
        ),
        stages=tuple(Stage(begin=begin, weights=tuple(weights)) for begin, weights in stages),
    )


def located(plan: Plan, begin: int, end: int) -> list[tuple[int, int]]:
    sources, places = plan.locate(np.arange(begin, end))
    return list(zip(sources.tolist(), places.tolist(), strict=True))


@settings(max_examples=200, deadline=None)
@given(weights=WEIGHTS)
@example([1, LONGEST_PERIOD - 1])
@example([3333, 3333, 3334])
@example([34, 33, 17, 16])
@example([1] * 40)
def test_at_every_prefix_each_source_is_within_one_sample_of_its_share(weights: list[int]) -> None:
    whole = whole_weights(weights)
    turns = np.tile(schedule(whole).sources, 3)
    counts = np.cumsum(turns[:, None] == np.arange(len(whole)), axis=0)
    shares = np.arange(1, len(turns) + 1)[:, None] * np.array(whole) / sum(whole)
    assert np.abs(counts - shares).max() < 1


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    count = draw(st.integers(1, 4))
    weights = st.lists(st.integers(0, 5), min_size=count, max_size=count).filter(any)
    begins = sorted(draw(st.sets(st.integers(1, 120), max_size=3)))
    stages = [(begin, whole_weights(draw(weights))) for begin in (0, *begins)]
    limits = draw(st.lists(st.none() | st.integers(1, 60), min_size=count, max_size=count))
    stops = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return a_mixture(stages, limits, stops)


@settings(max_examples=300, deadline=None)
@given(mixture=mixtures(), begin=st.integers(0, 100), data=st.data())
def test_any_position_is_what_a_plain_loop_finds_there(
    mixture: Mixture, begin: int, data: st.DataObject
) -> None:
    taken = {source.order: data.draw(st.integers(0, 40)) for source in mixture.sources}
    plan, expected = Plan(mixture, begin, taken), plain_loop(mixture, 200, begin, taken)
    if expected.ended_by == "":
        assert plan.end is None or plan.end >= begin + 200
    else:
        assert plan.end == begin + len(expected.samples)
        assert expected.ended_by == (plan.ended_by and plan.ended_by.name)
    end = begin + len(expected.samples)
    assert located(plan, begin, end) == expected.samples
    cuts = sorted({begin, end, *data.draw(st.lists(st.integers(begin, end), max_size=4))})
    assert [*chain(*(located(plan, a, b) for a, b in pairwise(cuts)))] == expected.samples
    if expected.samples:
        at = data.draw(st.integers(begin, end - 1))
        counts = [taken[s.order] for s in mixture.sources]
        for source, _ in expected.samples[: at - begin]:
            counts[source] += 1
        assert list(plan.taken(at).values()) == counts


def test_each_rule_for_the_end_of_a_source() -> None:
    names = "".join("ab"[source] for source, _ in located(Plan(a_mixture([(0, (1, 1))])), 0, 8))
    assert names == "abababab"
    of_five = Plan(a_mixture([(0, (1, 1))], limits=[5, None]))
    assert [source for source, _ in located(of_five, 0, 16)] == [0, 1] * 4 + [0] + [1] * 7
    assert (of_five.end, located(of_five, 12, 13)) == (None, [(1, 7)])
    stopping = Plan(a_mixture([(0, (1, 1))], limits=[5, None], stops=[True, False]))
    assert (stopping.end, stopping.ended_by and stopping.ended_by.name) == (9, "a")
    assert (Plan(a_mixture([(0, (1, 1))], limits=[5, 3])).end, Plan(a_mixture([(0, (1,))])).end) == (8, None)


def test_position_a_billion_is_found_at_once() -> None:
    plan = Plan(a_mixture([(0, (7, 2, 1)), (10**12, (1, 1, 8))]))
    assert located(plan, 10**9, 10**9 + 10) == [
        (source, place + 10**8 * weight)
        for (source, place), weight in zip(
            located(plan, 0, 10), [(7, 2, 1)[s] for s, _ in located(plan, 0, 10)], strict=True
        )
    ]
    assert sum(place for source, place in located(plan, 10**12, 10**12 + 10) if source == 0) == 7 * 10**11


def test_mixed_batches_are_those_of_the_sources_own_orders() -> None:
    orders = [GlobalOrder(sizes, 3, 20) for sizes in ([50, 7, 90], [400], [5, 5])]
    mixture = a_mixture([(0, (6, 3, 1)), (480, (1, 1, 1))])
    mixed, size = MixedOrder(orders, Plan(mixture)), 24
    rows = mixed.batches(0, size, 40)
    samples = plain_loop(mixture, 40 * size).samples
    offsets = [0, 147, 547]
    expected = [offsets[s] + int(orders[s].ids(np.array([place]))[0]) for s, place in samples]
    assert mixed.sequences == 557
    assert np.sort(rows, axis=1).tolist() == np.sort(np.reshape(expected, (40, size)), axis=1).tolist()
    for start in (0, 17, 33):  # any batch alone
        assert mixed.batches(start * size, size, 3).tolist() == rows[start : start + 3].tolist()


EQUAL, UNEQUAL = [4096] * 40, [25, 7, 90, 33, 64, 1]
RECORDED = {
    "cacbb32a95f8a897bf84f71afa8f4f3741e65930c938671f91f9bf72fef65560": (UNEQUAL, 0, 20, 0, 24, 40),
    "fbfdb638b45acae0aef4762c457af6630a4210136f5c78013ef50e764b329afe": ([500] * 9, 3, 7, 123_457, 64, 30),
    "9eaadb885cc8a1deed2e1e5dda8169238233a24ba961e35df29680aa67207e43": ([10], 1, 1, 5, 3, 50),
    "a898359adeac5e98eaaac5fec6c8d8dbbcf9b0d12c878b3bbce125ff7b9bbe36": (EQUAL, 0, 510, 490_880, 256, 12),
}
"""Digests of batches, from before there were mixtures: a run begun then must find the same samples."""


@pytest.mark.parametrize("digest", RECORDED)
def test_the_order_of_one_source_never_changes(digest: str) -> None:
    sizes, seed, block, start, size, count = RECORDED[digest]
    order = GlobalOrder(sizes, seed, block)
    of_one = MixedOrder([order], Plan(Mixture.of_one("/a", "a")))
    for batches in (order.batches(start, size, count), of_one.batches(start, size, count)):
        assert hashlib.sha256(batches.astype("<i8").tobytes()).hexdigest() == digest
    assert Mixture.of_one("/a", "a").digest == "a"


def test_weights_are_the_decimals_that_they_show() -> None:
    assert whole_weights([0.7, 0.2, 0.1]) == (7, 2, 1)
    assert whole_weights([3, 0, 1.5]) == (2, 0, 1)
    assert whole_weights([1e-3, 1]) == (1, 1000)
    with pytest.raises(ValueError, match="all weights are 0"):
        whole_weights([0, 0.0])
    with pytest.raises(ValueError, match=r"ratio 123457 : 876543, whose sum is more than 10000: round"):
        whole_weights([0.123457, 0.876543])
