"""All predictions' attributions at once, against captum's one by one."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ids, tiny_model

from odeformer.analysis.answers.attribution import Question, answer_logit, integrated_gradients, neutral_state
from odeformer.analysis.answers.heat_map import heat_map


@pytest.mark.parametrize("flavour", ["neox", "llama", "paper"])
def test_each_row_is_that_of_the_text_up_to_there(flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "odeformer.analysis.answers.heat_map.OUTPUTS_AT_ONCE", 1
    )  # so that the first text ends early
    model = tiny_model(flavour=flavour, rotary_fraction=None).eval()
    text, outputs, answers = ids(batch=1, length=9), [3, 8], torch.tensor([5, 7])
    rows = heat_map(model, text, outputs, answers, depth=5, points=24)
    for row, output, answer in zip(rows, outputs, answers, strict=True):
        alone = Question(model, text[:, : output + 1], answer[None], depth=5)
        expected = integrated_gradients(alone)[0]
        torch.testing.assert_close(row[: output + 1], expected, rtol=1e-3, atol=1e-5)
        assert not row[output + 1 :].any(), "of tokens that come after it"


def test_an_answer_of_several_tokens_is_the_sum_of_its_logits() -> None:
    """And integrated gradients add up to the difference that they explain."""
    model = tiny_model().double().eval()
    text = ids(batch=2, length=8)
    answer = text.roll(-1, 1)[:, -3:]
    several = Question(model, text, answer)
    x = model.embed(text).detach()
    logits = model(text).logits
    expected = sum(logits[torch.arange(2), 5 + i, answer[:, i]] for i in range(3))
    torch.testing.assert_close(answer_logit(several, x), expected)
    neutral = neutral_state(model, text).expand_as(x)
    difference = answer_logit(several, x) - answer_logit(several, neutral)
    assert integrated_gradients(several).shape == (2, 8)
    assert (integrated_gradients(several).sum(1) >= difference.abs() - 1e-3).all()
