"""Text as it comes in practice: mistyped, in another order, with characters that nobody expected.

Pure functions of a text, a strength and a seed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import NamedTuple

STRANGE = "ᚠᛞᛗ𐎠𐎼ꙮ⸎𓂀ꔖ⟁"
"""Runes, cuneiform, hieroglyphs and the like: what hardly any training text has."""


def typos(text: str, share: float, seed: int) -> str:
    """A share of the letters is off, by turns changed with the letter behind it and replaced by another one.

    The other one is drawn from the text's own letters, in the case of the one that goes. The text keeps its
    length.

    Args:
        share: of the text's letters, from 0 to 1; at least one of them.

    Raises:
        ValueError: for a text without letters.
    """
    letters = [place for place, character in enumerate(text) if character.isalpha()]
    if not letters:
        raise ValueError("the text has no letters")
    draw, written = random.Random(f"typos/{share}/{seed}"), list(text)
    alphabet = sorted({text[place].lower() for place in letters})
    for turn, place in enumerate(draw.sample(letters, max(1, round(share * len(letters))))):
        behind = place + 1
        if turn % 2 == 0 and behind < len(text) and text[behind].isalpha():
            written[place], written[behind] = written[behind], written[place]
        else:
            other = draw.choice([letter for letter in alphabet if letter != text[place].lower()] or alphabet)
            written[place] = other.upper() if text[place].isupper() and len(other.upper()) == 1 else other
    return "".join(written)


def shuffled_words(text: str, window: float, seed: int) -> str:
    """Words change places within windows of so many words; what is between them stays where it is.

    Raises:
        ValueError: for a text of fewer than two words.
    """
    words, size = re.findall(r"\S+", text), int(window)
    if len(words) < 2:
        raise ValueError("the text has fewer than two words")
    draw = random.Random(f"words/{window}/{seed}")
    mixed: list[str] = []
    for first in range(0, len(words), size):
        few = words[first : first + size]
        mixed += draw.sample(few, len(few))
    following = iter(mixed)
    return re.sub(r"\S+", lambda _: next(following), text)


def strange_characters(text: str, share: float, seed: int) -> str:
    """Characters of :data:`STRANGE` that the text does not have are put in, anywhere.

    Args:
        share: of the text's characters, how many come to them; at least one.

    Raises:
        ValueError: for a text that has all of them.
    """
    unknown = [character for character in STRANGE if character not in text]
    if not unknown:
        raise ValueError("the text itself has all those characters")
    draw, written = random.Random(f"strange/{share}/{seed}"), list(text)
    for _ in range(max(1, round(share * len(text)))):
        written.insert(draw.randint(0, len(written)), draw.choice(unknown))
    return "".join(written)


class Disturbance(NamedTuple):
    """A way to disturb a text, weakly and strongly."""

    disturb: Callable[[str, float, int], str]
    strengths: tuple[float, float]
    label: str
    """With its strength in it, for people; shares as percent."""

    def named(self, strength: float) -> str:
        return self.label.format(strength if strength > 1 else f"{100 * strength:g} %")


DISTURBANCES = {
    "typos": Disturbance(typos, (0.02, 0.1), "typos, {} of letters"),
    "word_order": Disturbance(shuffled_words, (3, 10), "words shuffled, {} at a time"),
    "strange_characters": Disturbance(strange_characters, (0.01, 0.05), "unknown characters, {}"),
}
