"""Examples that are whole texts."""

from __future__ import annotations

from pathlib import Path

from data.corpus import SUFFIXES, cut, is_blank, list_files
from data.tasks.example import Example
from data.tasks.rows import is_data_set
from data.tasks.tables import read_table


def read_texts(path: Path, prompt: str, completion: str, split: str) -> list[Example]:
    """The documents of a text file or a folder of text files, or the completions of a table's rows.

    Raises:
        FileNotFoundError, ValueError: naming file and line.
    """
    if path.suffix.lower() in SUFFIXES or (path.is_dir() and not is_data_set(path)):
        return _documents(path)
    return read_table(path, None, completion, split)


def _documents(path: Path) -> list[Example]:
    """The documents of text files, with long ones cut into pieces."""
    examples = []
    for file in list_files(path):
        with file.open("rb") as stream:
            examples += [Example(None, text) for text in cut(stream, str(file)) if not is_blank(text)]
    return examples
