"""Hard sequences are solved deeper, easy ones keep their shallow predictions, and all solves are counted."""

import math

import pytest
import torch
from tiny_models import VOCABULARY, ids, tiny_model

from odeformer.research.by_difficulty import entropy, solve_by_difficulty


def test_entropy_of_known_distributions() -> None:
    flat = torch.zeros(1, 3, VOCABULARY)
    sure = torch.zeros(1, 3, VOCABULARY)
    sure[..., 0] = 100
    torch.testing.assert_close(
        entropy(torch.cat([flat, sure])), torch.tensor([math.log(VOCABULARY), 0.0]), atol=1e-5, rtol=0
    )


def test_only_hard_sequences_are_solved_again() -> None:
    model = tiny_model()
    tokens = ids(batch=8, length=12)
    with torch.no_grad():
        shallow, deep = model(tokens, depth=2).logits, model(tokens, depth=6).logits
    threshold = float(entropy(shallow).median())
    hard = entropy(shallow) > threshold
    assert 0 < hard.sum() < 8
    seen = solve_by_difficulty(model, tokens, shallow=2, deep=6, threshold=threshold)
    torch.testing.assert_close(seen.logits[hard], deep[hard])
    assert torch.equal(seen.logits[~hard], shallow[~hard])
    assert seen.evaluations == tuple(2 + 6 * h for h in hard.tolist())


def test_thresholds_out_of_reach_solve_once_or_twice() -> None:
    model, tokens = tiny_model(), ids(batch=3)
    assert solve_by_difficulty(model, tokens, shallow=2, deep=4, threshold=9.0).evaluations == (2, 2, 2)
    assert solve_by_difficulty(model, tokens, shallow=2, deep=4, threshold=0.0).evaluations == (6, 6, 6)
    with pytest.raises(ValueError, match="shallow 4 must be less than deep 4"):
        solve_by_difficulty(model, tokens, shallow=4, deep=4, threshold=1.0)
