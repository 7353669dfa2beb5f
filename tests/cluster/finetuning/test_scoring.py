"""Scores of a classification: what every label would cost as the completion of every prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import tiny_shape
from torch import nn

from cluster.tasks.scoring import completion_losses, label_losses
from data.tasks.example import Example
from data.tasks.examples import TaskSets
from data.tokenizer import train_tokenizer
from odeformer.config import AdapterConfig, ModelConfig
from odeformer.frozen import FrozenBase, Tuned
from odeformer.lora import Adapter
from odeformer.model import Odeformer

LABELS = ("no", "yes indeed", "red red red", "e")
PROMPTS = [f"{'green ' * number} is it blue? " for number in (1, 2, 3, 3, 5, 9)]


class Counting(nn.Module):
    """A model that counts the tokens that it reads."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module, self.tokens = model, 0

    def forward(self, ids: torch.Tensor, **how: Any) -> Any:
        self.tokens += ids.numel()
        return self.module(ids, **how)


@pytest.mark.parametrize("flavour", ["neox", "llama", "paper"])
@pytest.mark.parametrize("sequence_length", [64, 8])  # the second one truncates, by another label otherwise
def test_a_prompt_is_read_once_and_every_label_costs_what_it_costs_alone(
    flavour: str, sequence_length: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["red blue green yes no indeed is it"] * 10, 300)
    shape = tiny_shape(vocabulary_size=300, context_length=64).model_dump(exclude={"rotary_fraction"})
    model = Odeformer(ModelConfig.model_validate({**shape, "flavour": flavour}))
    adapter = Adapter(AdapterConfig(), model.config)
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, std=0.1)
    examples = [Example(prompt, LABELS[i % 4]) for i, prompt in enumerate(PROMPTS)]
    sets = TaskSets(train=examples, validation=examples, labels=list(LABELS))
    prompted = [Example(prompt, label) for prompt in PROMPTS for label in LABELS]
    for one in (model, Tuned(FrozenBase(model), adapter)):
        engine, other = Counting(one), Counting(one)
        totals, counts, right = label_losses(engine, sets, tokenizer, sequence_length, batch=4, depth=3)
        total, count = completion_losses(other, prompted, tokenizer, sequence_length, batch=4, depth=3)
        torch.testing.assert_close(totals.flatten(), total, rtol=1e-5, atol=1e-5)
        assert torch.equal(counts.flatten(), count)
        assert right.tolist() == [0, 1, 2, 3, 0, 1]
        if sequence_length == 64:
            assert engine.tokens < 0.6 * other.tokens
