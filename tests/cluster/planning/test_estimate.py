"""Estimates: bytes against counted ones, times against closed forms, choices that fit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster.plan import settings_of, teacher_of
from cluster.planning import Machines, choices, estimate
from cluster.planning.communication import Collective, collectives, seconds
from cluster.planning.compute import EFFICIENCY, model_flops
from cluster.planning.hardware import GPUS, LINK_LATENCY, NETWORKS
from cluster.planning.reliability import best_interval, goodput, reliability
from cluster.settings import PretrainSettings
from cluster.training.memory import parameter_sizes, unallocated, worker_memory
from cluster.training.teacher import TeacherShape
from launcher.configuration.load import load_pretrain
from odeformer.config import BasisConfig
from odeformer.model import parameter_count

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "plan.json"
H100, NDR = GPUS["h100"], NETWORKS["ndr400"]


def preset(name: str, *changes: str) -> PretrainSettings:
    settings = load_pretrain(name, changes)
    length = settings.data.sequence_length
    model = settings.model.model_copy(update={"vocabulary_size": 32_000, "context_length": length})
    return settings.model_copy(update={"model": model})


def measured(kind: str) -> list[dict[str, Any]]:
    return [row for row in json.loads(RESULTS.read_text())["rows"] if row["kind"] == kind]


@pytest.mark.parametrize("row", measured("bytes"), ids=str)
def test_bytes_are_those_that_deepspeed_counts(row: dict[str, Any]) -> None:
    settings = settings_of(row, row["workers"], "x")
    sizes = parameter_sizes(unallocated(settings), settings.optim)
    said = collectives(sizes, settings.zero, row["workers"], row["passes"])
    assert sum(one.bytes for one in said) == pytest.approx(row["found"], rel=0.02)


@pytest.mark.parametrize("row", measured("memory"), ids=str)
def test_memory_is_what_real_workers_held(row: dict[str, Any]) -> None:
    planned = worker_memory(settings_of(row, 2, "x"), teacher_of(row)).total()
    assert sum(planned) == pytest.approx(row["found"], rel=0.1)


def test_a_worker_alone_sends_nothing_and_waits_for_nobody() -> None:
    settings = preset("tiny")
    made = estimate(settings, Machines(1, H100, NDR))
    assert made.bytes_sent == {}
    assert made.seconds["communication"] == 0


def test_a_collective_takes_what_the_model_says_within_a_node_and_between_nodes() -> None:
    size = 8 * 10**8
    ring = 2 * 7 / 8 * size / H100.link_bandwidth + 2 * 7 * LINK_LATENCY
    assert seconds(Collective("all_reduce", size), 8, H100, NDR) == pytest.approx(ring)
    between = 2 * 3 / 4 * size / 8 / NDR.bandwidth + 2 * math.log2(4) * NDR.latency
    assert seconds(Collective("all_reduce", size), 32, H100, NDR) == pytest.approx(ring + between)
    half = seconds(Collective("all_gather", size), 32, H100, NDR)
    assert half == pytest.approx((ring + between) / 2)


def test_flops_are_six_for_each_weight_and_token_and_those_of_attention() -> None:
    settings = preset("large", "train.depths=[]", "train.objective=one_depth")
    model, shape, train = unallocated(settings), settings.model, settings.train
    tokens = train.global_batch * settings.data.sequence_length
    block = 12 * shape.width**2
    weights = shape.depth * block + shape.width * 32_000
    attention = shape.depth * shape.width * settings.data.sequence_length
    assert model_flops(model, settings) == pytest.approx(6 * tokens * (weights + attention), rel=0.01)


def test_a_teacher_is_whole_on_each_gpu_and_runs_once_for_each_micro_batch() -> None:
    taught = preset("large", "teacher.model=none", "train.micro_batch=1")
    ordinary, elastic = (
        TeacherShape(taught.model.model_copy(update={"basis": basis}), "euler", depth=18)
        for basis in (BasisConfig(kind="none", size=36), BasisConfig(size=8))
    )
    tokens, width = taught.train.global_batch * taught.data.sequence_length, taught.model.width
    weights, block = 18 * 12 * width**2 + width * 32_000, 12 * width**2
    flops = 2 * tokens * (weights + 18 * width * taught.data.sequence_length)
    for gpus in (8, 64):
        machines = Machines(gpus, H100, NDR)
        alone, beside = (estimate(taught, machines, teacher) for teacher in (None, ordinary))
        assert beside.memory.device["teacher"] == 4 * parameter_count(ordinary.model)
        seconds = dict(beside.seconds)
        assert seconds.pop("teacher") == pytest.approx(
            flops / (gpus * H100.bf16_flops * EFFICIENCY[False]), rel=0.01
        )
        assert seconds == alone.seconds
        assert beside.utilization < alone.utilization
        assert beside.commit_bytes == alone.commit_bytes

        generating = estimate(taught, machines, elastic).seconds["teacher"] - beside.seconds["teacher"]
        once = max(2 * 18 * 8 * block / H100.fp32_flops, 4 * (8 + 18) * block / H100.memory_bandwidth)
        assert generating == pytest.approx(taught.train.global_batch / gpus * once, rel=0.01)
    held = [one.memory.device["teacher"] for one in choices(taught, machines, elastic)]
    assert held == [4 * parameter_count(elastic.model)] * 8


def test_the_weights_of_a_large_teacher_exist_twice_during_its_pass() -> None:
    taught = preset("tiny", "teacher.model=none")
    teacher = TeacherShape(preset("1b").model, "euler", depth=48)
    counted = worker_memory(taught, teacher).device
    assert counted["generated weights"] == pytest.approx(4 * 48 * 12 * teacher.model.width**2, rel=0.01)


def test_flops_of_a_second_pass_late_in_the_run() -> None:
    def flops(*overrides: str) -> float:
        settings = preset("large", *overrides)
        return model_flops(unallocated(settings), settings)

    at = {
        n: flops(f"train.depths=[{n}]", "train.vary_from=0", "train.objective=one_depth")
        for n in (18, 27, 36)
    }
    assert flops() == pytest.approx(at[36] + 0.25 * (at[18] + at[27]) / 2)


def test_goodput_against_closed_forms() -> None:
    assert goodput(600, 5, 1e12, 300) == pytest.approx(600 / 605), "nothing fails"
    assert reliability(1, 1e9).failures_per_day == pytest.approx(24 * 419 / (16_384 * 54 * 24))
    assert reliability(16_384, 1e9).failures_per_day == pytest.approx(419 / 54)
    for commit, between in ((5.0, 10_000.0), (1.0, 100_000.0), (30.0, 5_000.0)):
        tried = [best_interval(commit, between) * (1 + at / 100) for at in range(-60, 61)]
        best = max(tried, key=lambda every: goodput(every, commit, between, 300))
        assert best == pytest.approx(best_interval(commit, between), rel=0.05)


def test_choices_fit_and_the_fastest_is_first() -> None:
    found = choices(preset("large"), Machines(64, H100, NDR))
    assert [one.fits for one in found] == sorted((one.fits for one in found), reverse=True)
    fitting = [one.step_seconds for one in found if one.fits]
    assert fitting == sorted(fitting)
    assert len(found) == 8, "four stages, two gradient methods that go with euler"
    small = choices(preset("1b", "train.global_batch=4096"), Machines(8, GPUS["a100"], NDR))
    assert all(one.fits for one in small), "in smaller micro-batches"
    assert len({one.settings.train.micro_batch for one in small}) > 1


def test_more_gpus_fail_more_often_and_finish_sooner() -> None:
    few, many = (
        estimate(preset("large", "train.global_batch=2048"), Machines(gpus, H100, NDR)).content()
        for gpus in (64, 512)
    )
    assert many["failures_per_day"] == pytest.approx(8 * few["failures_per_day"])
    assert few["days"] / 8 < many["days"] < few["days"]
    assert many["mfu"] < few["mfu"] < EFFICIENCY[True]
    assert many["gpu_hours"] > few["gpu_hours"]


def test_a_batch_that_cannot_be_shared_is_refused_with_one_that_can() -> None:
    with pytest.raises(ValueError, match=r"cannot be shared by 1024 GPUs.*train.global_batch=2048"):
        estimate(preset("1b"), Machines(1024, H100, NDR))


def test_a_compiled_run_computes_as_much_faster_as_published() -> None:
    machines = Machines(64, H100, NDR)
    compiled, eager = (estimate(preset("large", f"train.compile={way}"), machines) for way in ("auto", "off"))
    assert eager.seconds["products"] / compiled.seconds["products"] == pytest.approx(0.38 / 0.32)
    assert compiled.efficiency_source.endswith("on H100 with torch.compile")
    assert eager.efficiency_source.endswith("on H100 without torch.compile")
    given = estimate(preset("large"), Machines(64, H100, NDR, efficiency=0.5))
    assert (given.efficiency, given.efficiency_source) == (0.5, "as given")
    rows = json.loads(RESULTS.with_name("simulation.json").read_text())["rows"]
    published = {row["run"]: row["efficiency"] for row in rows if row["kind"] == "step"}
    assert {
        False: round(published["without torch.compile"], 2),
        True: round(published["torch.compile"], 2),
    } == EFFICIENCY
