import pytest
import torch

from odeformer.inference.sampling import Sampling

LOGITS = torch.log(torch.tensor([[0.1, 0.5, 0.3, 0.06, 0.04]]))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1.0, None), [0.1, 0.5, 0.3, 0.06, 0.04]),
        (Sampling(0.0, None), [0, 1, 0, 0, 0]),
        (Sampling(1.0, 2), [0, 0.625, 0.375, 0, 0]),
        (Sampling(1.0, 99), [0.1, 0.5, 0.3, 0.06, 0.04]),
        (Sampling(1.0, None, 0.5), [0, 1, 0, 0, 0]),
        (Sampling(1.0, None, 0.51), [0, 0.625, 0.375, 0, 0]),
        (Sampling(1.0, None, 0.85), [0.1 / 0.9, 0.5 / 0.9, 0.3 / 0.9, 0, 0]),
        (Sampling(1.0, 3, 0.7), [0, 0.625, 0.375, 0, 0]),
        (
            Sampling(0.5, None),
            [p**2 / 0.3552 for p in (0.1, 0.5, 0.3, 0.06, 0.04)],
        ),
    ],
)
def test_probabilities(sampling: Sampling, expected: list[float]) -> None:
    seen = sampling.probabilities(LOGITS)
    torch.testing.assert_close(seen, torch.tensor([expected], dtype=torch.float32), rtol=1e-4, atol=1e-5)
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(5)
    for _ in range(400):
        counts[sampling.draw(LOGITS[0], generator)] += 1
    wanted = 400 * seen[0]
    assert ((counts - wanted).abs() <= 4 * (wanted * (1 - seen[0])).sqrt()).all()


@pytest.mark.parametrize("temperature", [1e-37, 1e-39, 1e-300])
def test_a_tiny_temperature_takes_the_most_likely_token(temperature: float) -> None:
    sampling = Sampling(temperature, None)
    assert sampling.probabilities(LOGITS).tolist() == [[0, 1, 0, 0, 0]]
    assert sampling.draw(LOGITS[0], torch.Generator()) == 1


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"temperature": -0.1}, r"temperature -0\.1"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_k": 0}, "top_k 0"),
        ({"top_p": 0.0}, r"top_p 0\.0"),
        ({"top_p": 1.1}, r"top_p 1\.1"),
    ],
)
def test_values_out_of_range_are_named(fields: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Sampling(**fields)  # type: ignore[arg-type]
