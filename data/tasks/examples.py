"""Fine-tuning sets: examples out of tables and texts, checked."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Formatter
from typing import Literal

from data.corpus import SUFFIXES, cut, digest_is_held_out, is_blank, list_files
from data.tasks.rows import Fields, is_data_set, read_rows

Kind = Literal["completion", "classification", "language_model"]


@dataclass(frozen=True)
class Example:
    """A text to continue, and how it should go on; or, without a prompt, a text that is learned whole."""

    prompt: str | None
    completion: str

    def digest(self) -> bytes:
        """SHA-256: the example's identity on every machine."""
        return hashlib.sha256(json.dumps(asdict(self)).encode("utf-8")).digest()


@dataclass(frozen=True)
class TaskSets:
    """A task's two checked sets; `labels` are those of a classification, sorted, and empty otherwise."""

    train: list[Example]
    validation: list[Example]
    labels: list[str]

    def digest(self) -> str:
        """SHA-256 in hex, of both sets' examples in their order: the same wherever they were read from."""
        both = hashlib.sha256()
        for examples in (self.train, self.validation):
            both.update(len(examples).to_bytes(8, "big"))
            for example in examples:
                both.update(example.digest())
        return both.hexdigest()


def read_task_sets(
    train: Path, validation: Path | None, kind: Kind, prompt: str, completion: str, held_out: float = 0.1
) -> TaskSets:
    """Read both sets of a task; without `validation`, by their digests the part `held_out` of the one.

    Raises what `read_examples` does; ValueError also for a validation label that training never shows,
    and where nothing is left for one of the sets.
    """
    seen = read_examples(train, kind, prompt, completion, "train")
    if validation is not None:
        asked = read_examples(validation, kind, prompt, completion, "validation")
    else:
        validation = train
        # By their texts: the same example never lies on both sides.
        asked = [example for example in seen if digest_is_held_out(example.digest(), held_out)]
        seen = [example for example in seen if not digest_is_held_out(example.digest(), held_out)]
        if not (seen and asked):
            raise ValueError(
                f"{train}: of {len(seen) + len(asked)} examples {len(asked)} are held out at held_out "
                f"{held_out}, and each side needs one: give more, or a validation file"
            )
    if kind != "classification":
        return TaskSets(seen, asked, labels=[])
    known = labels(seen)
    if len(known) < 2:
        raise ValueError(f"{train} has only the label {known[0]!r}: classification needs two")
    unseen = [label for label in labels(asked) if label not in known]
    if unseen:
        raise ValueError(f"{validation}: label {unseen[0]!r} does not occur in {train}: correct one of them")
    return TaskSets(seen, asked, labels=known)


def read_examples(
    path: Path, kind: Kind, prompt: str, completion: str, split: str = "train"
) -> list[Example]:
    """Read a table and fill the two templates with each row's fields.

    A template names fields in braces, as in "{question}\\n". A table has a header line; where the
    templates number the columns instead, as in "{0}\\n", it has none. See `read_rows` for the kinds of
    tables, and `split`. A language model's set may also be a text file or a folder of them, and of a
    table it takes the completion alone.

    Raises FileNotFoundError; ValueError that names file and line.
    """
    if kind == "language_model" and (path.suffix in SUFFIXES or (path.is_dir() and not is_data_set(path))):
        examples = _texts(path)
    else:
        examples = _filled(path, None if kind == "language_model" else prompt, completion, split)
    if not examples:
        raise ValueError(f"{path} has no examples: give a file with at least one")
    return examples


def labels(examples: Sequence[Example]) -> list[str]:
    """Return the distinct completions, sorted."""
    return sorted({example.completion for example in examples})


def _texts(path: Path) -> list[Example]:
    """Return the documents of text files, long ones in pieces."""
    examples = []
    for file in list_files(path):
        with file.open("rb") as stream:
            examples += [Example(None, text) for text in cut(stream, str(file)) if not is_blank(text)]
    return examples


def _filled(path: Path, prompt: str | None, completion: str, split: str) -> list[Example]:
    """Return an example for each row of a table."""
    templates = [_parse(prompt or ""), _parse(completion)]
    names = [name for template in templates for _, name in template if name is not None]
    by_position = bool(names) and all(name.isdecimal() for name in names)
    examples = []
    for place, fields in read_rows(path, by_position, split):
        for name in names:
            if name not in fields:
                raise ValueError(
                    f"{path} {place} has no field {name!r}, only {', '.join(fields)}: "
                    "correct the template ({0}, {1} count columns in a table without a header)"
                )
        question, answer = (_fill(template, fields) for template in templates)
        if is_blank(answer):
            raise ValueError(f"{path} {place} has an empty completion: fill it or drop the line")
        examples.append(Example(None if prompt is None else question, answer))
    return examples


def _parse(template: str) -> list[tuple[str, str | None]]:
    """Return pairs of literal text and the field after it, None at the end.

    Only plain names are fields: "{a.b}" would reach into objects.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"template {template!r}: {error}; write a literal brace twice") from None
    for _, name, spec, conversion in parts:
        if name is not None and (not name or set(name) & set(".[]") or spec or conversion):
            raise ValueError(f"template {template!r}: fields must be plain names, as {{question}}")
    return [(literal, name) for literal, name, _, _ in parts]


def _fill(template: list[tuple[str, str | None]], fields: Fields) -> str:
    return "".join(literal + (fields[name] if name else "") for literal, name in template)
