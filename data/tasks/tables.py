"""Examples from the rows of a table, made with two templates."""

from __future__ import annotations

from pathlib import Path
from string import Formatter

from data.building import records
from data.corpus import is_blank
from data.tasks.example import Example
from data.tasks.rows import as_text, read_rows


def read_table(path: Path, prompt: str | None, completion: str, split: str) -> list[Example]:
    r"""An example for each row of a table.

    Args:
        path: the table, see :func:`data.tasks.rows.read_rows`.
        prompt: the template of prompts, with fields in braces, as in "{question}\n". If templates number the
            columns, as in "{0}\n", the table has no header line. None makes examples without prompts.
        completion: the template of completions.
        split: the split to read of a saved dataset.

    Raises:
        FileNotFoundError, ValueError: naming file and line.
    """
    templates = [_parse(prompt or ""), _parse(completion)]
    names = [name for template in templates for _, name in template if name is not None]
    examples = []
    for place, stored in read_rows(path, names, split):
        for name in names:
            if name not in stored:
                raise ValueError(
                    f"{place} has no field {name!r}, only {records.shown(stored)}: "
                    "correct the template ({0}, {1} count columns in a table without a header)"
                )
        fields = {name: as_text(place, name, stored[name]) for name in names}
        question, answer = (_fill(template, fields) for template in templates)
        if is_blank(answer):
            raise ValueError(f"{place} has an empty completion: fill it or drop the line")
        examples.append(Example(None if prompt is None else question, answer))
    return examples


def _parse(template: str) -> list[tuple[str, str | None]]:
    """A template as pairs of literal text and the field after it, which is None at the end.

    Fields are names of columns, which may hold dots; nothing is looked up in them.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"template {template!r}: {error}; write a literal brace twice") from None
    for _, name, spec, conversion in parts:
        if name is not None and (not name or set(name) & set("[]") or spec or conversion):
            raise ValueError(f"template {template!r}: fields must be names of columns, as {{question}}")
    return [(literal, name) for literal, name, _, _ in parts]


def _fill(template: list[tuple[str, str | None]], fields: dict[str, str]) -> str:
    return "".join(literal + (fields[name] if name else "") for literal, name in template)
