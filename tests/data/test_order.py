import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data.order import STREAMS, GlobalOrder, permutation

BLOCK = 20

shard_sizes = st.lists(st.integers(1, 90), min_size=1, max_size=14)


def _ids(order: GlobalOrder, start: int, count: int) -> np.ndarray:
    return order.ids(np.arange(start, start + count))


def test_permutation_never_changes() -> None:
    # Written down once: a resumed run on another machine must find the same order.
    assert permutation(8, "samples", 0, 0).tolist() == [6, 0, 3, 4, 7, 5, 2, 1]
    assert permutation(8, "samples", 1, 0).tolist() != permutation(8, "samples", 0, 0).tolist()


@settings(max_examples=100, deadline=None)
@given(sizes=shard_sizes, seed=st.integers(0, 10), data=st.data())
def test_any_cut_of_the_order_gives_the_same_ids(sizes: list[int], seed: int, data: st.DataObject) -> None:
    total = 3 * sum(sizes)
    whole = _ids(GlobalOrder(sizes, seed, BLOCK), 0, total)
    cuts = sorted(data.draw(st.lists(st.integers(0, total), max_size=6)))
    order = GlobalOrder(sizes, seed, BLOCK)
    parts = [_ids(order, a, b - a) for a, b in zip([0, *cuts], [*cuts, total], strict=True)]
    assert np.concatenate(parts).tolist() == whole.tolist()


@settings(max_examples=100, deadline=None)
@given(sizes=shard_sizes, seed=st.integers(0, 10), batch=st.integers(1, 200))
def test_each_epoch_and_each_batch_has_its_samples_once(sizes: list[int], seed: int, batch: int) -> None:
    order = GlobalOrder(sizes, seed, BLOCK)
    n = order.sequences
    for epoch in range(3):
        assert sorted(_ids(order, epoch * n, n)) == list(range(n))
    for row, ids in enumerate(order.batches(5, batch, 2 * n // batch + 1)):
        assert sorted(ids) == sorted(_ids(order, 5 + row * batch, batch))


def test_epochs_and_seeds_differ() -> None:
    order = GlobalOrder([25] * 8, 0, BLOCK)
    assert _ids(order, 0, 200).tolist() != _ids(order, 200, 200).tolist()
    assert _ids(order, 0, 200).tolist() != _ids(GlobalOrder([25] * 8, 1, BLOCK), 0, 200).tolist()


def test_a_rank_reads_its_part_of_the_streams() -> None:
    # What all ranks together read is the corpus once, not once for each rank.
    size = 4 * BLOCK
    order = GlobalOrder([size] * STREAMS, 0, BLOCK)
    batch = 2 * STREAMS
    of_rank = [set(), set(), set(), set()]  # type: list[set[int]]
    for ids in order.batches(0, batch, 5):
        for rank, own in enumerate(np.split(ids, 4)):
            of_rank[rank] |= set((own // size).tolist())
    assert [len(pieces) for pieces in of_rank] == [STREAMS // 4] * 4
    assert len(set.union(*of_rank)) == STREAMS


def test_neighbors_in_the_corpus_are_as_far_apart_as_in_a_full_shuffle() -> None:
    """Autocorrelation of what documents have in common, over the lags within and across batches."""
    draw = np.random.default_rng(0)
    count, block = STREAMS * 512, 256
    # Documents of 8 sequences each, every one with a level of its own: neighbors in the corpus are alike.
    feature = np.repeat(draw.normal(size=count // 8), 8)
    ours = feature[_ids(GlobalOrder([count // 16] * 16, 0, block), 0, count)]
    correlations = {
        lag: float(np.corrcoef(ours[:-lag], ours[lag:])[0, 1])
        for lag in (1, 2, 8, 32, STREAMS, 2 * STREAMS, 5 * STREAMS)
    }
    bound = 4 / count**0.5  # four standard errors of white noise
    assert all(abs(correlation) < bound for correlation in correlations.values()), correlations
    assert np.corrcoef(feature[:-1], feature[1:])[0, 1] > 0.8
