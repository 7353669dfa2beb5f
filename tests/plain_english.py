"""Refuse docstrings and help texts that do not stand alone: fragments, and texts of one or two words.

python tests/plain_english.py          # print what is refused, and fail if there is any
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("odeformer", "data", "cluster", "launcher", "benchmarks")
# Words that a sentence or a noun phrase about the thing at hand does not begin with.
REFUSED = frozenset(
    [
        "Of",
        "That",
        "By",
        "So",
        "Where",
        "Which",
        "Whose",
        "Who",
        "Whom",
        "For",
        "In",
        "To",
        "With",
        "At",
        "On",
        "From",
        "As",
        "Beside",
        "Behind",
        "Else",
        "Those",
        "These",
        "It",
        "They",
        "Its",
        "Their",
        "Them",
        "One",
        "Not",
        "Nor",
        "And",
        "Or",
        "But",
        "Than",
        "Through",
        "Without",
        "Within",
        "Between",
    ]
)
FEWEST_WORDS = 3


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, also of those after a field or a constant, and of each ``help=``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for before, statement in zip([None, *node.body], node.body, strict=False):
                is_first = before is None and not (isinstance(node, ast.FunctionDef) and node.name[0] == "_")
                if (text := _text(statement)) and (
                    is_first or isinstance(before, ast.Assign | ast.AnnAssign)
                ):
                    yield statement.lineno, text
        elif isinstance(node, ast.keyword) and node.arg == "help" and (text := _constant(node.value)):
            yield node.value.lineno, text


def _text(statement: ast.stmt) -> str | None:
    return _constant(statement.value) if isinstance(statement, ast.Expr) else None


def _constant(value: ast.expr) -> str | None:
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def refused(text: str) -> str | None:
    """Why a text is refused, if it is."""
    words = text.split()
    if words[0].rstrip(",;:") in REFUSED:
        return f"begins with {words[0]!r}"
    return f"has fewer than {FEWEST_WORDS} words" if len(words) < FEWEST_WORDS else None


def main() -> int:
    """Print the refused texts of all packages."""
    count = 0
    for path in sorted(path for package in PACKAGES for path in Path(package).rglob("*.py")):
        for line, text in texts(ast.parse(path.read_text())):
            if why := refused(text):
                count += 1
                print(f"{path}:{line}: {why}: {' '.join(text.split())[:90]}")
    print(f"{count} texts do not stand alone" if count else "all docstrings and help texts stand alone")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
