"""Attributions and what judges them, where the truth is known."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ids, tiny_model

from odeformer.analysis.answers.attribution import METHODS, Question, answer_logit, log_probability
from odeformer.analysis.answers.faithfulness import faithfulness, leave_one_out, spearman


@pytest.fixture
def question() -> Question:
    return Question(tiny_model().eval(), ids(batch=3, length=8), torch.tensor([1, 5, 9]), depth=6)


def test_the_logit_is_that_of_the_model(question: Question) -> None:
    logits = question.model(question.input_ids, depth=6).logits[:, -1]
    x = question.model.embed(question.input_ids)
    torch.testing.assert_close(answer_logit(question, x), logits[torch.arange(3), question.answer])
    expected = logits.log_softmax(-1)[torch.arange(3), question.answer]
    torch.testing.assert_close(log_probability(question, x), expected)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("flavour", ["neox", "llama", "paper"])
def test_every_method_scores_every_token(name: str, flavour: str) -> None:
    model = tiny_model(flavour=flavour, rotary_fraction=None).eval()
    asked = Question(model, ids(batch=2, length=6), torch.tensor([1, 5]))
    scores = METHODS[name](asked)
    assert scores.shape == (2, 6)
    assert scores.isfinite().all()
    assert scores.std(dim=1).min() > 0
    one = Question(model, ids(batch=2, length=6)[:1], torch.tensor([1]))
    if name != "random":
        torch.testing.assert_close(METHODS[name](one), scores[:1], msg="prompts do not see one another")


def test_the_truth_is_the_most_faithful(question: Question) -> None:
    without = leave_one_out(question)
    truth = faithfulness(question, without)
    torch.testing.assert_close(truth.correlation, torch.ones(3, dtype=torch.float64))
    backwards = faithfulness(question, -without)
    torch.testing.assert_close(backwards.correlation, -torch.ones(3, dtype=torch.float64))
    assert (truth.deletion.mean() - backwards.deletion.mean()).abs() > 0
    # At the curves' ends all are gone, and all are there.
    assert faithfulness(question, without).insertion.isfinite().all()


def test_leave_one_out_is_a_difference_of_logits(question: Question) -> None:
    x = question.model.embed(question.input_ids).detach()
    changed = x.clone()
    changed[:, 2] = question.model.embedding.weight.mean(0)
    expected = (answer_logit(question, changed) - answer_logit(question, x)).abs()
    torch.testing.assert_close(leave_one_out(question)[:, 2], expected.detach())


def test_rank_correlation() -> None:
    a = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert spearman(a, a.exp()) == 1
    assert spearman(a, -a) == -1
    assert spearman(a, torch.tensor([1.0, 3.0, 2.0, 4.0])).item() == pytest.approx(0.8)
