"""The depths of the training loop's steps."""

from __future__ import annotations

from collections import Counter
from typing import Any

from cluster.settings import TrainSettings
from cluster.training.depths import step_depths


def train(**fields: Any) -> TrainSettings:
    return TrainSettings.model_validate({"steps": 100, "global_batch": 1, "micro_batch": 1, **fields})


def all_steps(settings: TrainSettings) -> list[list[int]]:
    return [step_depths(settings, 8, 0, step) for step in range(settings.steps)]


def test_without_depths_every_step_is_at_the_model_depth() -> None:
    assert all_steps(train()) == all_steps(train(vary_from=0.5)) == [[8]] * 100


def test_the_model_depth_comes_first_and_the_others_are_drawn_as_without_it() -> None:
    drawn = all_steps(train(depths=[8, 4, 16]))
    assert {depth for [depth] in drawn} == {4, 8, 16}
    assert all_steps(train(depths=[4, 16], vary_from=0.6))[:60] == [[8]] * 60
    assert all_steps(train(depths=[8, 4, 16], vary_from=0.6)) == [[8]] * 60 + drawn[60:]


def test_two_depths_are_the_model_depth_and_one_of_the_others() -> None:
    passes = all_steps(train(depths=[8, 4, 16, 4], objective="two_depths"))
    assert {first for first, _ in passes} == {8}
    counts = Counter(second for _, second in passes)
    assert set(counts) == {4, 16}
    assert counts[4] > counts[16]


def test_two_depths_may_begin_late() -> None:
    passes = all_steps(train(depths=[4, 16], objective="distillation", vary_from=0.6))
    assert passes[:60] == [[8]] * 60
    assert {tuple(depths) for depths in passes[60:]} == {(8, 4), (8, 16)}
