"""Logits of a model at one depth beside those of what was written of it, as others load it."""

from __future__ import annotations

import torch
from torch import Tensor

from odeformer.config import ModelConfig
from odeformer.model import Odeformer, SolveOptions

LARGEST_DIFFERENCE = 1e-4
"""Of logits, over their standard deviation: rounding, and no more."""


def sample_ids(config: ModelConfig) -> Tensor:
    """Random tokens [2, tokens], the same at every call."""
    assert config.vocabulary_size is not None
    assert config.context_length is not None
    draw = torch.Generator().manual_seed(0)
    return torch.randint(config.vocabulary_size, (2, min(64, config.context_length)), generator=draw)


@torch.no_grad()
def own_logits(model: Odeformer, depth: int | None, solver: str, ids: Tensor) -> Tensor:
    """The model's logits [batch, tokens, vocabulary] at this depth by this solver, on the CPU."""
    training, ids = model.training, ids.to(model.embedding.weight.device)
    try:
        return model.eval()(ids, depth=depth, options=SolveOptions(solver)).logits.cpu()
    finally:
        model.train(training)


def difference(seen: Tensor, expected: Tensor) -> float:
    """The largest of logits, over the expected ones' standard deviation."""
    return float((seen - expected).abs().max() / expected.std())


def check_rounding(seen: Tensor, expected: Tensor) -> float:
    """Their difference.

    Raises:
        ValueError: where it is not rounding.
    """
    found = difference(seen, expected)
    if not found <= LARGEST_DIFFERENCE:
        raise ValueError(
            f"the exported model's logits differ from the model's own by {found:.2g} of their standard "
            f"deviation; at most {LARGEST_DIFFERENCE:g} is rounding"
        )
    return found
