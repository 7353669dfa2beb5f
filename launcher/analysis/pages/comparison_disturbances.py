"""Which of two models takes a disturbed text better, in words and as a table."""

from __future__ import annotations

from typing import Any, NamedTuple


class Disturbance(NamedTuple):
    """What one disturbance does to both: as it is read."""

    label: str
    a: str
    a_interval: str
    b: str
    b_interval: str
    clearly_less: str


def verdict(content: dict[str, Any]) -> str:
    """Who takes the disturbances of a ``comparison.json`` better, in a sentence or two; "" without any.

    Only who is clearly ahead in at least half of them and behind in none: of eight pairs of intervals one may
    lie apart by chance.
    """
    of = content["disturbances"]
    if of is None:
        return ""
    for who in "ab":
        if of[who] is None:
            return (
                f"{who.upper()} was not looked at with a disturbed text, so who takes it better cannot be "
                f"said: analyze the text with {who.upper()} again."
            )
    if not of["same_text"]:
        return (
            "Who takes a disturbed text better cannot be said, as each was disturbed as far as it fits the "
            f"model's context: of A {of['a']['characters']:,} characters, of B {of['b']['characters']:,}."
        )
    ahead = {who: sum(row["clearly_less"] == who for row in of["rows"]) for who in "ab"}
    if not any(ahead.values()):
        return "No clear difference in how they take a disturbed text: the intervals of both overlap."
    count = len(of["rows"])
    better, worse = ("a", "b") if ahead["a"] > ahead["b"] else ("b", "a")
    if ahead[worse] or ahead[better] < count / 2:
        return (
            f"Neither takes a disturbed text better in general: of {count} disturbances, {ahead['a']} cost A "
            f"clearly less, {ahead['b']} B."
        )
    sentence = (
        f"{better.upper()} takes a disturbed text better: {ahead[better]} of {count} disturbances cost it "
        "clearly less."
    )
    if of[better]["clean"] > of[worse]["clean"]:
        sentence += " But it predicts the text as it is worse, and so has less to lose."
    return sentence


def disturbance_rows(content: dict[str, Any]) -> list[Disturbance]:
    """The text as it is, then what each disturbance adds, in bits per character."""
    of = content["disturbances"]
    if of is None:
        return []
    clean = ["–" if of[who] is None else f"{of[who]['clean']:.3f}" for who in "ab"]
    return [Disturbance("the text as it is", clean[0], "", clean[1], "", "")] + [
        Disturbance(row["label"], *_read(row["a"]), *_read(row["b"]), (row["clearly_less"] or "–").upper())
        for row in of["rows"]
    ]


def _read(rise: dict[str, float] | None) -> tuple[str, str]:
    if rise is None:
        return "–", ""
    return f"{rise['mean']:+.3f}", f"{rise['low']:+.3f} to {rise['high']:+.3f}"
