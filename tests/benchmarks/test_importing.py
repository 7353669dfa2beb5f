"""What is said of imported checkpoints: rates, verdicts, and the layers that are dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.quality.importing_pages import CLAIMS, chosen, judged, part
from benchmarks.quality.importing_rows import (
    AS_IT_WAS,
    AT_RANDOM,
    BEFORE,
    FULL,
    OURS,
    THE_SAME,
    LayersDropped,
)
from benchmarks.quality.rows import DEPTH, Peer
from odeformer.config import BasisConfig, ModelConfig

LOSSES = {
    AS_IT_WAS.name: (4.11, 3.760),
    BEFORE.name: (4.13, 3.760),
    OURS.name: (3.82, 3.765),
    AT_RANDOM.name: (3.94, 3.800),
    THE_SAME.name: (3.84, 3.765),
    FULL.name: (4.20, 3.740),
}


def row(name: str, seed: int, half: float, full: float, rate: float = 5e-4) -> dict[str, Any]:
    losses = {"4": half, "6": half, "8": full, "12": full, "16": full}
    return {
        "name": name,
        "seed": seed,
        "learning_rate": rate,
        "validation_loss": losses,
        "tokens": 159_744,
        "parameters": 1_845_504,
        "date": "2026-11-25",
    }


def rows(**changed: tuple[float, float]) -> list[dict[str, Any]]:
    """Three checkpoints, each of which shifts all losses alike."""
    return [
        row(name, seed, *(loss + 0.05 * seed for loss in changed.get(name, losses)))
        for name, losses in LOSSES.items()
        for seed in range(3)
    ]


def verdicts(**changed: tuple[float, float]) -> list[str]:
    return [claim.verdict for claim in judged(rows(**changed)) if claim.bar]


def test_each_claim_is_reached_or_missed_by_its_own_difference() -> None:
    assert verdicts() == ["reached"] * 4
    assert verdicts(**{BEFORE.name: (4.13, 3.763)})[0] == "MISSED"
    assert verdicts(**{AT_RANDOM.name: (3.82, 3.80)})[1] == "MISSED"
    assert verdicts(**{THE_SAME.name: (3.82, 3.76)})[1:3] == ["reached", "MISSED"]
    assert verdicts(**{OURS.name: (3.82, 3.775)}) == ["reached", "reached", "reached", "MISSED"]
    assert {claim.verdict for claim in judged([])} == {"not run"}


def test_a_mean_below_is_not_enough_when_the_checkpoints_disagree() -> None:
    scattered = [r for r in rows() if r["name"] != OURS.name]
    scattered += [row(OURS.name, seed, 3.80 + 0.05 * seed + 0.06 * (seed - 1), 3.76) for seed in range(3)]
    claims = {claim.claim: claim for claim in judged(scattered)}
    claim = claims["trained on, at N = L/2, against every other layer dropped, the same extra tokens"]
    assert claim.measured.startswith("-3.9 % [")
    assert claim.verdict == "MISSED"


def test_ours_looks_after_both_depths_and_the_others_after_half() -> None:
    rates = {5e-4: (3.83, 3.76), 1e-3: (3.82, 3.79)}
    for way, best in ((OURS, 5e-4), (AT_RANDOM, 1e-3), (FULL, 5e-4)):
        tried = [row(way.name, 0, *losses, rate=rate) for rate, losses in rates.items()]
        tried += [row(way.name, 1, 3.8, 3.8, rate=rate) for rate in rates]
        assert {r["learning_rate"] for r in chosen(tried, way.name).values()} == {best}
        assert set(chosen(tried, way.name)) == {0, 1}


def test_the_page_names_every_claim_and_way() -> None:
    content = {
        "rows": rows(),
        "machine": "a machine",
        "tokens": 1_600_000,
        "extra": 160_000,
        "largest_difference": 1e-6,
    }
    text = part(content)
    assert all(claim.text in text for claim in CLAIMS)
    assert all(name in text for name in LOSSES)
    assert "2026-11-25" in text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    basis = BasisConfig(kind="none", size=DEPTH)
    shape = ModelConfig(width=32, heads=4, depth=DEPTH, basis=basis, vocabulary_size=50, context_length=16)
    path = tmp_path_factory.mktemp("ordinary")
    Peer(shape).inner.save_pretrained(path)
    return path


def test_layers_are_dropped_and_all_of_them_come_back(folder: Path) -> None:
    ids = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(0))
    dropped = LayersDropped(folder, at_random=True, seed=0).eval()
    with torch.no_grad():
        whole = dropped(ids).logits
        by_kept = []
        for kept in dropped.KEPT:
            dropped.kept = kept
            by_kept.append(dropped(ids, depth=DEPTH // 2).logits)
        assert all(not torch.equal(logits, whole) for logits in by_kept)
        assert all(not torch.equal(a, b) for i, a in enumerate(by_kept) for b in by_kept[:i])
        assert torch.equal(dropped(ids, depth=DEPTH).logits, whole)
        # Without the layers' own parts nothing is left but what goes around them.
        for layer in dropped.inner.gpt_neox.layers:
            layer.attention.dense.weight.zero_()
            layer.mlp.dense_4h_to_h.weight.zero_()
        torch.testing.assert_close(dropped(ids, depth=4).logits, dropped(ids).logits)
    drawn = {dropped.train()._chosen(4) for _ in range(50)}
    assert len(drawn) > 20
    assert all(list(layers) == sorted(set(layers)) for layers in drawn)
    assert LayersDropped(folder, at_random=False, seed=0).train()._chosen(4) == LayersDropped.KEPT[0]
