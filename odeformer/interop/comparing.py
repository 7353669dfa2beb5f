"""Comparison of a model's logits with those of its export, as loaded by other libraries."""

from __future__ import annotations

import torch
from torch import Tensor

from odeformer.config import ModelConfig
from odeformer.model import Odeformer, SolveOptions

LARGEST_DIFFERENCE = 1e-4
"""The largest difference of logits, relative to their standard deviation, that counts as rounding."""


def sample_ids(config: ModelConfig) -> Tensor:
    """Random token ids [2, tokens], the same at every call."""
    assert config.vocabulary_size is not None
    assert config.context_length is not None
    draw = torch.Generator().manual_seed(0)
    return torch.randint(config.vocabulary_size, (2, min(64, config.context_length)), generator=draw)


@torch.no_grad()
def own_logits(model: Odeformer, depth: int | None, solver: str, ids: Tensor) -> Tensor:
    """The model's logits [batch, tokens, vocabulary] at a depth with a solver, on the CPU, dropout off."""
    training, ids = model.training, ids.to(model.embedding.weight.device)
    try:
        return model.eval()(ids, depth=depth, options=SolveOptions(solver)).logits.cpu()
    finally:
        model.train(training)


def difference(logits: Tensor, expected: Tensor) -> float:
    """The largest difference of logits, relative to the standard deviation of the expected ones."""
    return float((logits - expected).abs().max() / expected.std())


def check_rounding(logits: Tensor, expected: Tensor) -> float:
    """The :func:`difference` of logits, after checking that it is due to rounding.

    Raises:
        ValueError: if it is larger.
    """
    largest = difference(logits, expected)
    if not largest <= LARGEST_DIFFERENCE:
        raise ValueError(
            f"the logits differ from the original's by {largest:.2g} of their standard deviation; at most "
            f"{LARGEST_DIFFERENCE:g} is rounding"
        )
    return largest
