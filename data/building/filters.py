"""Filters of training texts: length limits, and published quality rules for prose."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from itertools import islice

from data.manifest import Filters

JUDGED = 1024 * 1024
"""Number of characters at the start of a text that the quality rules examine."""
LEAST_SIMILAR, MOST_SIMILAR = 0.5, 0.95
"""Thresholds of similarity for which 128 hashes suffice and not nearly all pairs must be compared."""

_LETTER = re.compile(r"[^\W\d_]")
_SYMBOL = re.compile(r"#|\.\.\.|…")


def chosen_filters(
    min_bytes: int | None, max_bytes: int | None, quality: bool, near_duplicates: float | None
) -> Filters | None:
    """The filters of a build; None if it has none.

    Raises:
        ValueError: for limits out of range.
    """
    if min_bytes is not None and min_bytes < 1:
        raise ValueError(f"min_bytes is {min_bytes}: it must be at least 1, or left out")
    if max_bytes is not None and max_bytes < (min_bytes or 1):
        raise ValueError(f"max_bytes is {max_bytes}: it must be at least {min_bytes or 1}, or left out")
    if near_duplicates is not None and not LEAST_SIMILAR <= near_duplicates <= MOST_SIMILAR:
        raise ValueError(
            f"near_duplicates is {near_duplicates}: it must be from {LEAST_SIMILAR} to {MOST_SIMILAR}, as 0.8"
        )
    if (min_bytes, max_bytes, quality, near_duplicates) == (None, None, False, None):
        return None
    return Filters(min_bytes=min_bytes, max_bytes=max_bytes, quality=quality, near_duplicates=near_duplicates)


def rule_names(filters: Filters) -> list[str]:
    """The names of the active rules, in the order in which they are checked."""
    lengths = [name for name in ("min_bytes", "max_bytes") if getattr(filters, name) is not None]
    return [*lengths, *(QUALITY if filters.quality else ())]


def broken_rule(filters: Filters, text: str, size: int) -> str | None:
    """The name of the first rule that a text of ``size`` UTF-8 bytes breaks, or None."""
    if filters.min_bytes is not None and size < filters.min_bytes:
        return "min_bytes"
    if filters.max_bytes is not None and size > filters.max_bytes:
        return "max_bytes"
    if filters.quality:
        front = text[:JUDGED]
        words = front.split()
        for name, is_broken in QUALITY.items():
            if is_broken(front, words):
                return name
    return None


def has_odd_words(text: str, words: list[str]) -> bool:
    """Whether the mean word length is below 3 or above 10 characters."""
    return not 3 <= sum(map(len, words)) / len(words) <= 10


def has_few_letters(text: str, words: list[str]) -> bool:
    """Whether fewer than 80 % of the words contain a letter."""
    return sum(_LETTER.search(word) is not None for word in words) < 0.8 * len(words)


def has_many_symbols(text: str, words: list[str]) -> bool:
    """Whether there is more than one hash sign or ellipsis per ten words."""
    return len(_SYMBOL.findall(text)) > 0.1 * len(words)


def has_repeated_lines(text: str, words: list[str]) -> bool:
    """Whether more than 30 % of the non-blank lines repeat earlier lines."""
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    return len(lines) - len(set(lines)) > 0.3 * len(lines)


def has_repeated_phrases(text: str, words: list[str]) -> bool:
    """Whether the most frequent phrase of two words makes up more than 20 % of the words' characters.

    A phrase that occurs only once is ignored, and overlapping occurrences count once.
    """
    pairs = Counter(zip(words, islice(words, 1, None), strict=False))
    if not pairs:
        return False
    # Ties are broken by length, so that the result does not depend on the order of phrases.
    phrase, count = max(pairs.items(), key=lambda pair: (pair[1], sum(map(len, pair[0]))))
    if count < 2:
        return False
    characters = place = 0
    while place < len(words) - 1:
        if (words[place], words[place + 1]) == phrase:
            characters += sum(map(len, phrase))
            place += 2
        else:
            place += 1
    return characters > 0.2 * sum(map(len, words))


QUALITY: dict[str, Callable[[str, list[str]], bool]] = {
    "word_length": has_odd_words,
    "letters": has_few_letters,
    "symbols": has_many_symbols,
    "repeated_lines": has_repeated_lines,
    "repeated_phrases": has_repeated_phrases,
}
"""Quality rules by name: functions of a text and its words (at least one) that return whether it is broken.

Rules and thresholds are those of MassiveText (Rae et al. 2021, "Scaling Language Models: Methods, Analysis &
Insights from Training Gopher", arXiv 2112.11446, appendix A.1.1) that apply to most languages with spaces
between words. They are meant for prose: source code breaks them.
"""
