"""Disturbed texts: the same from a seed, as much as was asked for, and nothing else; and what they cost."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from tiny_models import ids, tiny_model

from odeformer.analysis.texts.disturbance import (
    DISTURBANCES,
    STRANGE,
    shuffled_words,
    strange_characters,
    typos,
)
from odeformer.analysis.texts.robustness import EncodedText, bits_per_character, bits_under_noise

TEXT = "The quick brown Fox jumps over 13 lazy dogs,\n  and the dogs – being lazy – do not mind.\n" * 20


@pytest.mark.parametrize("kind", DISTURBANCES)
def test_a_seed_gives_one_text_and_another_seed_another(kind: str) -> None:
    way = DISTURBANCES[kind]
    for strength in way.strengths:
        first = way.disturb(TEXT, strength, 3)
        assert first == way.disturb(TEXT, strength, 3)
        assert first != way.disturb(TEXT, strength, 4)
        assert first != TEXT
        assert f"{strength:g}" in way.named(strength) or f"{100 * strength:g} %" in way.named(strength)


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_so_many_letters_are_off_and_nothing_but_letters(share: float) -> None:
    letters = sum(character.isalpha() for character in TEXT)
    written = typos(TEXT, share, 0)
    assert len(written) == len(TEXT)
    off = [(before, after) for before, after in zip(TEXT, written, strict=True) if before != after]
    assert all(before.isalpha() and after.isalpha() for before, after in off)
    # An edit is one letter, or two that change places; two equal neighbors change nothing.
    assert 0.9 * share * letters < len(off) <= 2 * share * letters


def test_words_stay_in_their_window_and_spaces_where_they_are() -> None:
    written = shuffled_words(TEXT, 5, 0)
    before, after = TEXT.split(), written.split()
    for first in range(0, len(before), 5):
        assert Counter(before[first : first + 5]) == Counter(after[first : first + 5])
    assert "".join(written.split()) != "".join(TEXT.split())
    assert [part for part in written if part.isspace()] == [part for part in TEXT if part.isspace()]


def test_strange_characters_come_to_a_text_that_stays_as_it_is() -> None:
    written = strange_characters(TEXT, 0.05, 0)
    assert len(written) - len(TEXT) == round(0.05 * len(TEXT))
    assert "".join(character for character in written if character not in STRANGE) == TEXT
    assert STRANGE[0] not in strange_characters(STRANGE[0] * 50, 0.5, 0).replace(STRANGE[0], "", 50)


def test_a_little_text_is_disturbed_at_least_once_or_refused() -> None:
    assert typos("ab", 0.02, 0) != "ab"
    assert typos("a", 0.02, 0) == "a", "it has no other letter"
    assert len(strange_characters("ab", 0.01, 0)) == 3
    with pytest.raises(ValueError, match="no letters"):
        typos("12, 13", 0.1, 0)
    with pytest.raises(ValueError, match="fewer than two words"):
        shuffled_words(" word\n", 3, 0)
    with pytest.raises(ValueError, match="has all those"):
        strange_characters(STRANGE, 0.1, 0)


def test_bits_are_those_of_each_text_by_itself_however_long_the_others_are() -> None:
    model = tiny_model().double().eval()
    texts = [EncodedText(ids(batch=1, length=time)[0].tolist(), 3 * time) for time in (2, 6, 4, 5, 7)]
    found = bits_per_character(model, texts, depth=5)
    for bits, (tokens, characters) in zip(found, texts, strict=True):
        known = torch.tensor([tokens])
        with torch.no_grad():
            logits = model(known[:, :-1], depth=5).logits[0]
        nats = torch.nn.functional.cross_entropy(logits, known[0, 1:], reduction="sum")
        expected = float(nats) / (len(tokens) - 1) * len(tokens) / math.log(2) / characters
        assert float(bits) == pytest.approx(expected, rel=1e-9)
    quiet = bits_under_noise(model, texts[1], 1e-9, 6, depth=5)
    assert quiet.tolist() == pytest.approx([float(found[1])] * 6, rel=1e-6)
    assert bits_under_noise(model, texts[1], 3.0, 6, depth=5).std() > 1e-4
