"""Guessing ahead must not be seen in the text."""

import pytest
import torch
from tiny_models import CONTEXT, ids, tiny_model

from odeformer.inference.decoding import Decoder, FixedDepthModel
from odeformer.inference.generate import generate
from odeformer.inference.sampling import Sampling
from odeformer.inference.speculative import Acceptance, speculate

GREEDY = Sampling(temperature=0)


def lively(seed: int = 0) -> tuple[FixedDepthModel, FixedDepthModel]:
    """A model at N = 8 and 2, which say different things."""
    torch.manual_seed(seed)
    model = tiny_model(tie_embeddings=False).eval()
    with torch.no_grad():
        model.final_norm.bias.zero_()
        model.embedding.weight.normal_(std=3.0)
    return FixedDepthModel(model, 8), FixedDepthModel(model, 2)


@pytest.mark.parametrize("ahead", [1, 3, 8])
def test_greedy_text_is_the_deep_solves(ahead: int) -> None:
    deep, shallow = lively()
    counts = Acceptance()
    for prompt in ids(batch=8, length=6).tolist():
        expected = [token for [token] in generate(deep, [prompt], max_new_tokens=30, sampling=GREEDY)]
        written = speculate(
            deep, shallow, prompt, ahead=ahead, max_new_tokens=30, sampling=GREEDY, acceptance=counts
        )
        assert list(written) == expected, "30 tokens behind 6 pass the context of 16"
    assert 0.05 < counts.rate < 0.95, "some guesses must be right and some wrong for this to say anything"


def test_a_model_that_guesses_for_itself_is_always_right() -> None:
    deep, _ = lively()
    counts = Acceptance()
    list(speculate(deep, deep, [1, 2, 3], max_new_tokens=10, sampling=GREEDY, acceptance=counts))
    assert counts.guessed > 5
    assert counts.rate == 1


def test_draws_have_the_deep_solves_distribution() -> None:
    """Of the first two tokens together, against the product of its probabilities."""
    deep, shallow = lively()
    sampling, prompt, draws = Sampling(temperature=1.3, top_k=4), [5, 9, 2], 1200
    counts: dict[tuple[int, int], int] = {}
    for seed in range(draws):
        first, second = speculate(
            deep, shallow, prompt, max_new_tokens=2, sampling=sampling, seed=seed, ahead=2
        )
        counts[first, second] = counts.get((first, second), 0) + 1

    def probabilities(text: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return sampling.probabilities(Decoder(deep, 1, CONTEXT).read(torch.tensor([text]))[0, -1])

    total = 0.0
    for a, p in enumerate(probabilities(prompt).tolist()):
        for b, q in enumerate(probabilities([*prompt, a]).tolist() if p else []):
            expected = draws * p * q
            total += p * q
            assert abs(counts.get((a, b), 0) - expected) <= 4.5 * expected**0.5 + 1
    assert total == pytest.approx(1)


def test_it_ends_at_the_stop_token_and_repeats_with_its_seed() -> None:
    deep, shallow = lively()
    hot = Sampling(temperature=1.5)
    texts = [list(speculate(deep, shallow, [1, 2], sampling=hot, seed=seed)) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0]) == 64
    stop = next(token for i, token in enumerate(texts[0]) if i > 4 and token not in texts[0][:i])
    stopped = list(speculate(deep, shallow, [1, 2], sampling=hot, seed=0, stop_id=stop))
    assert stopped == texts[0][: texts[0].index(stop)]
    with pytest.raises(ValueError, match="ahead 0"):
        next(speculate(deep, shallow, [1], ahead=0))
