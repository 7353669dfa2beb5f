import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data.order import WINDOW, GlobalOrder, permutation

shard_sizes = st.lists(st.integers(1, 20), min_size=1, max_size=14)


def test_permutation_never_changes() -> None:
    # Written down once: a resumed run on another machine must find the same order.
    assert permutation(8, "samples", 0, 0).tolist() == [6, 0, 3, 4, 7, 5, 2, 1]
    assert permutation(8, "samples", 1, 0).tolist() != permutation(8, "samples", 0, 0).tolist()


@settings(max_examples=100, deadline=None)
@given(sizes=shard_sizes, seed=st.integers(0, 10), data=st.data())
def test_any_cut_of_the_order_gives_the_same_ids(sizes: list[int], seed: int, data: st.DataObject) -> None:
    total = 3 * sum(sizes)
    whole = GlobalOrder(sizes, seed).ids(0, total)
    cuts = sorted(data.draw(st.lists(st.integers(0, total), max_size=6)))
    order = GlobalOrder(sizes, seed)
    parts = [order.ids(a, b - a) for a, b in zip([0, *cuts], [*cuts, total], strict=True)]
    assert np.concatenate(parts).tolist() == whole.tolist()


@settings(max_examples=100, deadline=None)
@given(sizes=shard_sizes, seed=st.integers(0, 10))
def test_each_epoch_visits_each_sample_once(sizes: list[int], seed: int) -> None:
    order = GlobalOrder(sizes, seed)
    n = order.sequences
    for epoch in range(3):
        assert sorted(order.ids(epoch * n, n)) == list(range(n))


def test_epochs_and_seeds_differ_and_samples_are_mixed_across_a_window() -> None:
    order = GlobalOrder([25] * 8, seed=0)
    first, second = order.ids(0, 200), order.ids(200, 200)
    assert first.tolist() != second.tolist()
    assert first.tolist() != GlobalOrder([25] * 8, seed=1).ids(0, 200).tolist()
    # A reader keeps a window's shards at a time; all of them take turns inside it.
    shards = first // 25
    assert len(set(shards[: 25 * WINDOW])) == WINDOW
    assert len(set(shards[:20])) == WINDOW
