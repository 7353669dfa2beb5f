"""The claims of :mod:`benchmarks.quality.students`, and the marked part of docs/students.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.bench import Claim, Row, claims_table, measured_by, measured_on, select, table
from benchmarks.quality.claims import Comparison, RowsBySeed, mean_loss

DEPTH = 4
TEACHER = "teacher"
STUDENTS = ("half the width", "a quarter of the weight sets")
SCRATCH, DISTILLED = "from scratch", "distilled"


def judged(rows: Sequence[Row]) -> list[Claim]:
    """Whether each student, distilled, has a lower perplexity than from scratch, at N = D and D/2."""
    return [
        Comparison(
            f"{student}, at N = {name}", DISTILLED, depth, SCRATCH, depth, "below", lambda d: d.high < 0
        ).judge(lambda way, student=student: by_seed(rows, student, way))
        for student in STUDENTS
        for name, depth in (("D", DEPTH), ("D/2", DEPTH // 2))
    ]


def by_seed(rows: Sequence[Row], name: str, way: str) -> RowsBySeed:
    """The rows of a model that was trained one way, by seed."""
    return {row["seed"]: row for row in select(rows, name=name, way=way)}


MEASURED = """\
The teacher has width 96 and D = K = 4 and saw {teacher_tokens} k tokens. Each student saw {tokens} k tokens:
the same ones in the same order, from the same initial weights, with the same optimizer and the same learning
rate, which was not tuned, from scratch and distilled (`teacher.weight` 0.5, the teacher at N = D). With each
seed they are another part of the teacher's own tokens. Differences of perplexity on held-out text are paired
by seed; in brackets the 95 % interval of their mean. Equal tokens are not equal time: a distilled student
also runs its teacher. Training is short (150 steps); longer runs, other weights and other depths of the
teacher were not measured."""


def part(content: dict[str, Any]) -> str:
    """How it was measured, the claims, and the perplexity of every model."""
    rows, names = content["rows"], {"teacher_tokens", "tokens"}
    return "\n\n".join(
        [
            f"{measured_by('quality.students', 'students')} On this {measured_on(content)}.",
            MEASURED.format(**{name: f"{content[name] / 1e3:.0f}" for name in names}),
            claims_table(judged(rows), "student: perplexity, distilled against from scratch"),
            "Perplexity, the mean over seeds:",
            table(
                ("model", "way", "parameters", "seeds", "N = D/2", "N = D"),
                [
                    _line(name, way, by_seed(rows, name, way))
                    for name in (TEACHER, *STUDENTS)
                    for way in ((SCRATCH,) if name == TEACHER else (SCRATCH, DISTILLED))
                ],
            ),
        ]
    )


def _line(name: str, way: str, rows: RowsBySeed) -> list[str]:
    losses = [f"{math.exp(mean_loss(rows, depth)):.1f}" for depth in (DEPTH // 2, DEPTH)]
    return [name, way, f"{next(iter(rows.values()))['parameters']:,}", str(len(rows)), *losses]
