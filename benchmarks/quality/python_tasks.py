"""Write the evaluation tasks that come with the command line, by rule, from Python's standard library.

    python -m benchmarks.quality.python_tasks cluster/evaluation/tasks

Questions are taken only from documents that the quick start holds out of training
(``launcher.quickstart.standard_library.HELD_OUT``). Another version of Python has other sources and gives
other questions.

``next_line``: six lines of code; the question is which of four lines of that file comes next.
``last_name``: code up to a name that ends a line and has occurred before; the answer is that name.
``text``: the beginnings of files, for the bits per byte of all their tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.corpus import is_held_out, read_documents
from launcher.quickstart.standard_library import HELD_OUT, sources

CONTEXT_LINES = 6
CHOICES = 4
QUESTIONS = {"next_line": 150, "last_name": 150, "text": 20}
"""The number of questions of each kind."""
TEXT_CHARACTERS = 800
TABLES = {"encodings", "pydoc_data"}
"""Folders that hold data rather than code."""
LAST_NAME = re.compile(r"^(.*[ .(])([A-Za-z_]{4,})$")


def main() -> None:
    """Write ``{next_line,last_name,text}.jsonl`` into the folder that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder to write the task files into")
    folder = parser.parse_args().folder
    files = [path for path in sources() if not TABLES & set(path.parts)]
    texts = [document.text for document in read_documents(files) if is_held_out(document, HELD_OUT)]
    for name, questions in {"next_line": next_lines, "last_name": last_names, "text": beginnings}.items():
        candidates = [question for text in texts for question in questions(text)]
        candidates.sort(key=lambda question: fingerprint(json.dumps(question)))
        rows = "".join(json.dumps(question) + "\n" for question in candidates[: QUESTIONS[name]])
        (folder / f"{name}.jsonl").write_text(rows, encoding="utf-8")
        print(f"{name}: {min(len(candidates), QUESTIONS[name])} of {len(candidates)}")


def fingerprint(text: str) -> int:
    """A pseudo-random number that is the same on every machine."""
    return int(hashlib.sha256(text.encode("utf-8")).hexdigest()[:12], 16)


def contexts(text: str) -> Iterator[tuple[list[str], str]]:
    """Lines of code with the six lines before them; at most every third line, as contexts overlap."""
    lines = [line.rstrip() for line in text.splitlines()]
    for index in range(CONTEXT_LINES, len(lines), 3):
        before = lines[index - CONTEXT_LINES : index]
        if is_asked(lines[index]) and all(before) and sum(map(len, before)) <= 400:
            yield before, lines[index]


def is_asked(line: str) -> bool:
    """Whether a line is code of 12 to 70 characters and no comment."""
    return 12 <= len(line.strip()) <= 70 and not line.lstrip().startswith("#")


def next_lines(text: str) -> Iterator[dict[str, Any]]:
    """Questions with four choices for the next line."""
    asked = sorted({line.rstrip() for line in text.splitlines() if is_asked(line)})
    for before, line in contexts(text):
        others = [other for other in asked if other != line and other not in before]
        others.sort(key=lambda other, line=line: fingerprint(line + other))
        if len(others) >= CHOICES - 1:
            answer = fingerprint("\n".join([*before, line])) % CHOICES
            choices = others[: CHOICES - 1]
            choices.insert(answer, line)
            yield {"context": "\n".join(before) + "\n", "choices": choices, "answer": answer}


def last_names(text: str) -> Iterator[dict[str, Any]]:
    """Questions for a name that ends a line and occurs in the lines before it."""
    for before, line in contexts(text):
        if (match := LAST_NAME.match(line)) and re.search(rf"\b{match[2]}\b", "\n".join(before)):
            yield {"context": "\n".join([*before, match[1]]), "name": match[2]}


def beginnings(text: str) -> Iterator[dict[str, Any]]:
    """The first whole lines of a file."""
    if len(text) > TEXT_CHARACTERS:
        yield {"text": text[: text.rindex("\n", 0, TEXT_CHARACTERS) + 1]}


if __name__ == "__main__":
    main()
