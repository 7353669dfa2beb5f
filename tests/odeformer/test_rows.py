"""Rows that join and leave a batch, with different adapters, against decoding each alone."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from tiny_models import tiny_model

from odeformer.config import AdapterConfig
from odeformer.inference.decoding import FixedDepthModel
from odeformer.inference.generate import generate
from odeformer.inference.rows import DepthRows, Row
from odeformer.inference.sampling import Sampling
from odeformer.lora import Adapter
from odeformer.model import Odeformer


def an_adapter(model: Odeformer, seed: int, rank: int, targets: tuple[str, ...]) -> Adapter:
    torch.manual_seed(seed)
    adapter = Adapter(AdapterConfig(rank=rank, targets=targets), model.config)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(std=0.3)
    return adapter.requires_grad_(False)


def alone(
    model: Odeformer, adapter: Adapter | None, depth: int, prompt: Sequence[int], count: int
) -> list[int]:
    model.hypernetwork.adapter = adapter
    try:
        steps = generate(
            FixedDepthModel(model, depth), [prompt], max_new_tokens=count, sampling=Sampling(temperature=0)
        )
        return [token for [token] in steps if token is not None]
    finally:
        model.hypernetwork.adapter = None


@pytest.mark.parametrize("flavour", ["neox", "llama", "paper"])
def test_each_row_is_what_it_would_be_alone(flavour: str) -> None:
    model = tiny_model(flavour=flavour, rotary_fraction=None if flavour == "paper" else 0.5).eval()
    targets = ("qkv", "out", "up", "down", "embedding")
    adapters = [None, an_adapter(model, 1, 2, targets), an_adapter(model, 2, 4, ("qkv",)), None]
    dice = random.Random(0)
    batch = DepthRows(model, 3, most_rows=4, capacity=24)
    waiting = [
        (Row([dice.randrange(model.config.vocabulary_size or 0) for _ in range(dice.randint(1, 9))], adapter),
         dice.randint(1, 12))
        for adapter in adapters * 3
    ]  # fmt: skip
    expected = {
        id(row): (len(row.ids), alone(model, row.adapter, 3, row.ids, count)) for row, count in waiting
    }
    left = dict.fromkeys((id(row) for row, _ in waiting), 0) | {id(row): count for row, count in waiting}
    ended: list[Row] = []
    queue = [row for row, _ in waiting]
    while queue or batch.rows:
        if queue and len(batch.rows) < batch.most_rows:
            row, reading = queue.pop(0), batch.start()
            while row.read < len(row.ids):
                logits = batch.read_prompt(row, reading, at_once=4)
            row.ids.append(int(logits[-1].argmax()))
            left[id(row)] -= 1
            batch.join(row, reading)
        for row in [row for row in batch.rows if not left[id(row)]]:
            batch.leave(row)
            ended.append(row)
        if batch.rows:
            for row, logits in zip(batch.rows, batch.step(), strict=True):
                row.ids.append(int(logits.argmax()))
                left[id(row)] -= 1
    assert len(ended) == len(waiting)
    for row in ended:
        length, tokens = expected[id(row)]
        assert row.ids[length:] == tokens
