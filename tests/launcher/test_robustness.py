"""Disturbed texts in an analysis: which are there, which are left out and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_checkpoint import small_checkpoint
from tokenizers import Tokenizer, models, pre_tokenizers

import odeformer
from data.tokenizer import load_tokenizer
from launcher.analysis.files import encode
from launcher.analysis.pages.figures import robustness as figure
from odeformer.analysis.texts.disturbance import DISTURBANCES
from odeformer.analysis.texts.robustness import DRAWS, Encode, disturbed, fitting, robustness

TEXT = "def saved(folder):\n    return folder / FILE_NAME\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("model"))


def of(checkpoint: Path, text: str, depth: int = 6) -> Any:
    return robustness(odeformer.load(checkpoint), ids_of(load_tokenizer(checkpoint)), text, depth)


def ids_of(tokenizer: Tokenizer) -> Encode:
    return lambda text: encode(tokenizer, text, None).ids


def test_every_way_has_both_strengths_at_the_depth_and_at_the_ends(checkpoint: Path) -> None:
    found = of(checkpoint, TEXT)
    assert found == of(checkpoint, TEXT), "the same from one call to the next"
    assert found["settings"]["depths"] == [2, 6, 8]
    assert found["left_out"] == {}
    assert [row["kind"] for row in found["rows"]] == [
        kind for kind in (*DISTURBANCES, "noise") for _ in range(2)
    ]
    assert len(found["clean"]) == 3
    for row in found["rows"]:
        assert len(row["rise"]) == 3
        assert all(rise["low"] <= rise["mean"] <= rise["high"] for rise in row["rise"])
    mean = {(row["kind"], row["strength"]): row["rise"][1]["mean"] for row in found["rows"]}
    assert mean["strange_characters", 0.05] > mean["strange_characters", 0.01] > 0
    json.dumps(found, allow_nan=False)
    assert [bar.name for bar in figure({"robustness": found}).data] == ["N = 2", "N = 6", "N = 8"]


def test_a_text_that_fills_the_context_is_cut_so_that_all_fit(checkpoint: Path) -> None:
    text = TEXT * 4
    kept, versions, _ = fitting(ids_of(load_tokenizer(checkpoint)), text, 128)
    assert text.startswith(kept)
    assert 0.5 * len(text) < len(kept) < len(text)
    assert len(versions) == 2 * len(DISTURBANCES)
    assert max(len(cut.ids) for version in versions for cut in version.draws) <= 128
    assert of(checkpoint, text)["settings"]["characters"] == len(kept)


def test_what_a_text_or_a_tokenizer_does_not_have_is_left_out_with_the_reason(checkpoint: Path) -> None:
    found = of(checkpoint, "0123456789" * 5)
    assert found["left_out"] == {
        "typos": "the text has no letters",
        "word_order": "the text has fewer than two words",
    }
    assert {row["kind"] for row in found["rows"]} == {"strange_characters", "noise"}
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "some": 1, "words": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    versions, left_out = disturbed(ids_of(words), "some words " * 20)
    assert {version.kind for version in versions} == {"word_order"}
    assert all(len(version.draws) == DRAWS for version in versions)
    assert "no token for" in left_out["typos"]
    assert "no token for" in left_out["strange_characters"]


def test_a_very_short_text_is_not_disturbed(checkpoint: Path) -> None:
    found = of(checkpoint, "ab ab")
    assert (found["clean"], found["rows"]) == (None, [])
    assert found["settings"]["least_tokens"] > 5
