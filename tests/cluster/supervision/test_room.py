"""Allowed numbers of workers, and how many fit on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cluster.settings import ClusterSettings, PretrainSettings
from cluster.supervision import room

WORKER = {"CPU": 4.0, "GPU": 1.0, "pretrain": 1.0}


@pytest.mark.parametrize(
    ("nodes", "workers"),
    [
        ([], 0),
        ([{"CPU": 8.0, "GPU": 2.0, "pretrain": 2.0}], 2),
        ([{"CPU": 8.0, "GPU": 2.0}], 0),  # a node of others
        ([{"CPU": 2.0, "GPU": 1.0, "pretrain": 1.0}] * 2, 0),  # enough together, on no node
        ([{"CPU": 7.0, "GPU": 2.0, "pretrain": 2.0}, {"CPU": 64.0, "GPU": 1.0, "pretrain": 8.0}], 2),
    ],
)
def test_a_worker_has_its_place_on_one_node(nodes: list[dict[str, float]], workers: int) -> None:
    assert room.places(WORKER, nodes) == workers


def test_parts_that_add_up_are_a_whole() -> None:
    assert (
        room.places({"CPU": 1.0, "pretrain": 1.0}, [{"CPU": 0.1 + 0.2 + 0.7 - 1e-12, "pretrain": 1.0}]) == 1
    )


@pytest.mark.parametrize(
    ("workers", "fewest", "sizes"), [(2, None, [2]), (4, 1, [4, 2, 1]), (6, 3, [4]), (7, 1, [4, 2, 1])]
)
def test_a_run_may_have_the_numbers_of_workers_that_take_whole_micro_batches(
    settings: Callable[..., PretrainSettings], workers: int, fewest: int | None, sizes: list[int]
) -> None:
    # A global batch of 8 in micro-batches of 2.
    assert settings(cluster={"workers": workers, "min_workers": fewest}).world_sizes == sizes


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"workers": 3}, "not a multiple of train.micro_batch × cluster.workers = 2 × 3"),
        ({"workers": 3, "min_workers": 3}, "nor for any number down to cluster.min_workers 3"),
        ({"workers": 2, "min_workers": 4}, "cluster.min_workers 4 is more than cluster.workers 2"),
    ],
)
def test_a_range_without_a_number_is_refused(
    settings: Callable[..., PretrainSettings], cluster: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settings(cluster=cluster)


@pytest.mark.parametrize(("places", "size"), [(0, None), (1, 1), (3, 2), (4, 4), (9, 4)])
def test_the_largest_that_has_room_is_taken(places: int, size: int | None) -> None:
    assert room.largest([4, 2, 1], places) == size


def test_what_is_lacking_is_a_line() -> None:
    nodes = [{"CPU": 1.0, "pretrain": 1.0}, {"CPU": 8.0}, {"pretrain": 1.0}]
    assert room.lacking(ClusterSettings(), 2, nodes) == (
        "2 workers of 1 CPU and 1 pretrain each are wanted, 1 fits now: "
        "free are 1 CPU and 1 pretrain; 0 CPU and 1 pretrain"
    )
    assert room.lacking(ClusterSettings(gpus_per_worker=1), 1, []) == (
        "1 worker of 1 CPU and 1 GPU and 1 pretrain is wanted, 0 fit now: no node has a pretrain free"
    )
