"""Damage to bytes, as strategies of hypothesis: cuts, flipped bits, swapped parts, large numbers."""

from __future__ import annotations

import re
from collections.abc import Callable

from hypothesis import strategies as st

Damage = Callable[[bytes], bytes]

NUMBERS = (b"0", b"-1", b"65536", b"4294967295", b"9223372036854775807", b"1e999", b"9" * 5000)
LONGEST = 2**16
"""Maximum bytes by which a file grows in one step."""
BYTES = (b"\0", b"\xff", b"\xed\xa0\x80", b'"', b"{", b"[", b"\\", b"\n", b"\t", b",", b"\x1f\x8b", b"null")


def _cut(data: bytes, at: float, other: float) -> bytes:
    return data[: int(at * len(data))]


def _drop(data: bytes, at: float, other: float) -> bytes:
    low, high = sorted(int(place * len(data)) for place in (at, other))
    return data[:low] + data[high:]


def _flip(data: bytes, at: float, other: float) -> bytes:
    place = min(int(at * len(data)), len(data) - 1)
    return data[:place] + bytes([data[place] ^ 1 << int(other * 8)]) + data[place + 1 :] if data else data


def _swap(data: bytes, at: float, other: float) -> bytes:
    low, high = sorted(int(place * len(data)) for place in (at, other))
    return data[high:] + data[low:high] + data[:low]


def _repeat(data: bytes, at: float, other: float) -> bytes:
    low, high = sorted(int(place * len(data)) for place in (at, other))
    return data[:high] + (data[low:high] * 20)[:LONGEST] + data[high:]


def _grow(data: bytes, at: float, other: float) -> bytes:
    numbers = list(re.finditer(rb"\d+", data))
    if not numbers:
        return data
    chosen = numbers[int(at * len(numbers))]
    return data[: chosen.start()] + NUMBERS[int(other * len(NUMBERS))] + data[chosen.end() :]


def _put(data: bytes, at: float, other: float) -> bytes:
    place = int(at * len(data))
    return data[:place] + BYTES[int(other * len(BYTES))] + data[place:]


_KINDS = (_cut, _drop, _flip, _swap, _repeat, _grow, _put)
_places = st.floats(0, 1, exclude_max=True)


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """One to four damages, one after the other."""
    steps = draw(st.lists(st.tuples(st.sampled_from(_KINDS), _places, _places), min_size=1, max_size=4))

    def damage(data: bytes) -> bytes:
        for kind, at, other in steps:
            data = kind(data, at, other)
        return data

    return damage
