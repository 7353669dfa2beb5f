"""Disturbed texts as pure functions of text, strength and seed: typos, shuffled words, unknown characters."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import NamedTuple

STRANGE = "ᚠᛞᛗ𐎠𐎼ꙮ⸎𓂀ꔖ⟁"
"""Runes, cuneiform, hieroglyphs and other characters that hardly any training text has."""


def typos(text: str, share: float, seed: int) -> str:
    """Mistype letters: alternately swap one with the next, and replace one by another of the text's letters.

    A replacement keeps the case, and the text keeps its length.

    Args:
        share: The share of letters to mistype, from 0 to 1; at least one letter is.

    Raises:
        ValueError: If the text has no letters.
    """
    letters = [place for place, character in enumerate(text) if character.isalpha()]
    if not letters:
        raise ValueError("the text has no letters")
    draw, written = random.Random(f"typos/{share}/{seed}"), list(text)
    alphabet = sorted({text[place].lower() for place in letters})
    for turn, place in enumerate(draw.sample(letters, max(1, round(share * len(letters))))):
        after = place + 1
        if turn % 2 == 0 and after < len(text) and text[after].isalpha():
            written[place], written[after] = written[after], written[place]
        else:
            other = draw.choice([letter for letter in alphabet if letter != text[place].lower()] or alphabet)
            written[place] = other.upper() if text[place].isupper() and len(other.upper()) == 1 else other
    return "".join(written)


def shuffled_words(text: str, window: float, seed: int) -> str:
    """Shuffle words within windows of ``window`` words; white space stays in place.

    Raises:
        ValueError: If the text has fewer than two words.
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
    """Insert characters of :data:`STRANGE` that the text does not contain at random places.

    Args:
        share: The number of insertions relative to the text's length; at least one is made.

    Raises:
        ValueError: If the text contains all of them.
    """
    unknown = [character for character in STRANGE if character not in text]
    if not unknown:
        raise ValueError("the text itself has all those characters")
    draw, written = random.Random(f"strange/{share}/{seed}"), list(text)
    for _ in range(max(1, round(share * len(text)))):
        written.insert(draw.randint(0, len(written)), draw.choice(unknown))
    return "".join(written)


class Disturbance(NamedTuple):
    """A kind of disturbance with a weak and a strong setting."""

    disturb: Callable[[str, float, int], str]
    strengths: tuple[float, float]
    label: str
    """A description with a placeholder for the strength."""

    def named(self, strength: float) -> str:
        """The description of one strength; shares are written as percentages."""
        return self.label.format(strength if strength > 1 else f"{100 * strength:g} %")


DISTURBANCES = {
    "typos": Disturbance(typos, (0.02, 0.1), "typos, {} of letters"),
    "word_order": Disturbance(shuffled_words, (3, 10), "words shuffled, {} at a time"),
    "strange_characters": Disturbance(strange_characters, (0.01, 0.05), "unknown characters, {}"),
}
