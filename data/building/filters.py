"""Which texts are worth training on: limits of length, and published rules of quality for prose."""

import re
from collections import Counter
from collections.abc import Callable
from itertools import islice

from data.manifest import Filters

JUDGED = 1024 * 1024  # characters at the front of a text that the rules of quality look at
LEAST_SIMILAR, MOST_SIMILAR = 0.5, 0.95  # what 128 hashes can tell apart without comparing nearly all pairs

_LETTER = re.compile(r"[^\W\d_]")
_SYMBOL = re.compile(r"#|\.\.\.|…")


def chosen_filters(
    min_bytes: int | None, max_bytes: int | None, quality: bool, near_duplicates: float | None
) -> Filters | None:
    """Return what a build is to leave out, or None for nothing. Raises ValueError for bad limits."""
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
    """Return the names of the rules that are on, in the order in which a text is put to them."""
    lengths = [name for name in ("min_bytes", "max_bytes") if getattr(filters, name) is not None]
    return [*lengths, *(QUALITY if filters.quality else ())]


def broken_rule(filters: Filters, text: str, size: int) -> str | None:
    """Return the name of the first rule that a text of `size` UTF-8 bytes breaks, or None.

    A pure function of the text: what else is in the corpus does not matter.
    """
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
    """Say whether the mean word has fewer than 3 or more than 10 characters."""
    return not 3 <= sum(map(len, words)) / len(words) <= 10


def has_few_letters(text: str, words: list[str]) -> bool:
    """Say whether fewer than 80 % of the words have a letter in them."""
    return sum(_LETTER.search(word) is not None for word in words) < 0.8 * len(words)


def has_many_symbols(text: str, words: list[str]) -> bool:
    """Say whether there is more than one hash sign or ellipsis for ten words."""
    return len(_SYMBOL.findall(text)) > 0.1 * len(words)


def has_repeated_lines(text: str, words: list[str]) -> bool:
    """Say whether more than 30 % of the lines that are not blank stand further up already."""
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    return len(lines) - len(set(lines)) > 0.3 * len(lines)


def has_repeated_phrases(text: str, words: list[str]) -> bool:
    """Say whether more than 20 % of the words' characters are in the most frequent phrase of two words.

    A phrase that occurs once is no repetition, and occurrences that overlap count once.
    """
    pairs = Counter(zip(words, islice(words, 1, None), strict=False))
    if not pairs:
        return False
    # Of equally frequent ones the longest, so that the answer does not depend on which comes first.
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
"""The rules of quality: each is given a text and its words, of which there is at least one.

Rules and thresholds are those of MassiveText (Rae et al. 2021, "Scaling Language Models: Methods, Analysis &
Insights from Training Gopher", arXiv 2112.11446, appendix A.1.1) that hold in most languages which put spaces
between words. They are meant for prose: source code breaks them.
"""
