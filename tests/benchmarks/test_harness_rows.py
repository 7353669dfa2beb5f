"""How the answers of two models to the same questions of the LM Evaluation Harness are compared."""

from __future__ import annotations

import pytest

from benchmarks.quality.harness import differences


def test_answers_are_compared_one_by_one() -> None:
    theirs = [{"filtered_resps": [(-1.0, True), (-2.0, False)]}, {"filtered_resps": [[-3.0, False]]}]
    ours = [{"filtered_resps": [(-1.5, True), (-2.0, True)]}, {"filtered_resps": [[-3.0, False]]}]
    assert differences(theirs, ours) == {
        "answers": 3,
        "other_decisions": 1,
        "loglikelihood_difference": pytest.approx(0.5),
    }


def test_a_rolling_task_has_likelihoods_and_no_decisions() -> None:
    found = differences([{"filtered_resps": [-7.0]}], [{"filtered_resps": [-7.25]}])
    assert found == {"answers": 1, "other_decisions": 0, "loglikelihood_difference": 0.25}
