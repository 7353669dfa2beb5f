"""Windows of a text, and the figures of each against the plain way to find them."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import ids, tiny_model

from odeformer.analysis.dynamics.noise import amplification, relative_growth
from odeformer.analysis.flow import flow_of
from odeformer.analysis.texts import drift


def test_windows_are_spread_over_the_text_and_do_not_overlap() -> None:
    found = drift.windows_of(torch.arange(10_000), 64)
    assert len(found.starts) == drift.MOST_WINDOWS
    assert found.ids[:, 0].tolist() == found.starts
    gaps = [after - before for before, after in zip(found.starts, found.starts[1:], strict=False)]
    assert min(gaps) >= 64
    assert max(gaps) - min(gaps) <= 64
    assert found.starts[-1] > 9000
    assert drift.windows_of(torch.arange(64 * 8), 64).starts == [64 * k for k in range(8)]
    with pytest.raises(ValueError, match="has 511 tokens, too few for 8 windows of 64: 512 are needed"):
        drift.windows_of(torch.arange(511), 64)


def test_figures_of_a_window_are_its_own() -> None:
    model = tiny_model().double().eval()
    windows = ids(batch=10, length=8)
    found = drift.figures(model, windows, depth=5)
    assert found.keys() == drift.UNITS.keys()
    alone = drift.figures(model, windows[9:], depth=5)
    for name in drift.UNITS:
        # An exponent is found from random directions, other ones in another place of the batch.
        assert alone[name][0] == pytest.approx(float(found[name][9]), rel=0.05), name
    window = windows[9]
    with torch.no_grad():
        probabilities = model(window[None, :-1], depth=5).logits[0].softmax(-1)
    of_target = probabilities.gather(1, window[1:, None])[:, 0]
    assert float(found["loss"][9]) == pytest.approx(float(-of_target.log().mean()))
    assert float(found["entropy"][9]) == pytest.approx(
        float(-(probabilities * probabilities.log()).sum(-1).mean())
    )
    right = (probabilities.argmax(-1) == window[1:]).double()
    assert float(found["calibration_gap"][9]) == pytest.approx(float((probabilities.amax(-1) - right).mean()))


def test_the_exponent_is_the_largest_singular_value_of_the_whole_jacobian(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model().double().eval()
    window = ids(batch=1, length=5)
    x = model.embed(window).detach()
    jacobian = torch.autograd.functional.jacobian(flow_of(model, 5, 5).end, x).view(x.numel(), -1)
    expected = float(torch.linalg.svdvals(jacobian)[0].log())
    monkeypatch.setattr(drift, "ITERATIONS", 6)
    assert float(drift.figures(model, window, 5)["leading_exponent"]) == pytest.approx(expected, abs=1e-4)


def test_noise_of_many_sequences_is_that_of_each() -> None:
    model = tiny_model().double().eval()
    texts = ids(batch=3, length=6)
    found = relative_growth(model, texts, 0.01, draws=8, depth=5)
    expected = [amplification(model, text[None], [0.01], depth=5)[0].relative for text in texts]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_the_effective_number_of_tokens() -> None:
    scores = torch.tensor([[1.0, 1.0, 1.0, 1.0], [5.0, 0.0, 0.0, 0.0], [0.5, 0.25, 0.25, 0.0]])
    assert drift.effective_number(scores).tolist() == pytest.approx([4.0, 1.0, math.exp(1.5 * math.log(2))])


def test_what_is_shifted_has_moved_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)

    def sample() -> dict[str, torch.Tensor]:
        return {name: torch.randn(16, generator=generator).double() for name in drift.UNITS}

    reference, new = sample(), sample()
    new["entropy"] += 3
    found = drift.moved(reference, new)
    assert [name for name, figure in found.items() if figure["moved"]] == ["entropy"]
    assert found["entropy"]["difference"]["low"] > 2
    assert all(figure["p_adjusted"] >= figure["p"] for figure in found.values())
    assert not any(figure["moved"] for figure in drift.moved(reference, reference).values())


def test_a_figure_that_overflows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "_tokens_leaned_on", lambda *_: torch.tensor([torch.nan]))
    with pytest.raises(ValueError, match="tokens leaned on is not finite"):
        drift.figures(tiny_model().eval(), ids(batch=1, length=6), 5)
