"""Step times, and the peak FLOP/s that utilization is relative to."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from small_runs import tiny_shape

from cluster.training import step_times
from cluster.training.step_times import StepTimes
from cluster.training.utilization import named_peak, step_flops, utilization
from odeformer.model import Odeformer, SolveOptions


def clocks(stage: int) -> StepTimes:
    engine = SimpleNamespace(
        device="cpu", zero_optimization_stage=lambda: stage, buffered_allreduce_fallback=lambda: None
    )
    return StepTimes(engine)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of :mod:`cluster.training.step_times`, in seconds."""
    now = [100.0]
    monkeypatch.setattr(step_times, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


def test_a_part_within_another_stops_its_clock(clock: list[float]) -> None:
    times = clocks(stage=0)
    with times("data"):
        clock[0] += 50  # of a step that came to nothing
    times.begin()
    for _ in range(2):
        with times("backward"):
            clock[0] += 2
            with times("communication"):
                clock[0] += 4
            clock[0] += 1
        clock[0] += 8
    assert times.seconds() == {"step_seconds": 30, "backward_seconds": 6, "communication_seconds": 8}


def test_communication_is_left_out_where_a_part_of_it_is_hidden(clock: list[float]) -> None:
    times = clocks(stage=1)
    times.begin()
    with times("communication"):
        clock[0] += 3
    assert times.seconds() == {"step_seconds": 3}


def test_model_flops_are_those_of_the_ordinary_transformer() -> None:
    model = Odeformer(tiny_shape(vocabulary_size=40, context_length=8))
    d = model.config.width
    # GPT-NeoX: four d × d for attention, eight for the feed-forward part, biases and two norms.
    a_cell = 2 * (12 * d * d + 13 * d) + 2 * d * 8
    passes = 5 * a_cell + 2 * d * 40 + 4 * a_cell + 2 * d * 40
    assert step_flops(model, [5, 4], sequences=6, length=8) == 3 * 6 * 8 * passes
    model.options = SolveOptions("heun")
    # The prelude, one layer here, takes the steps of layers; three cells of two evaluations follow.
    assert step_flops(model, [4], 1, 8) == 3 * 8 * (7 * a_cell + 2 * d * 40)


def test_a_peak_is_that_of_the_product_and_not_of_its_namesake() -> None:
    names = {
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA H200": 989e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA GB200": 2500e12,
        "NVIDIA B200": 2250e12,
        "NVIDIA A10": None,
        "NVIDIA L40": None,
        "Quadro P400": None,
    }
    assert {name: named_peak(name) for name in names} == names
    assert utilization(989e12, 2.0, workers=4, peak=989e12) == {"mfu": 0.125}
    assert utilization(10.0, 2.0, workers=4, peak=None) == {"model_flops_per_second": 5.0}
