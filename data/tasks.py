"""Fine-tuning sets: read examples from a table, encode them, stream them."""

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Formatter
from typing import Literal

import numpy as np
import torch
from tokenizers import Tokenizer

from data.order import GlobalOrder, order_digest
from data.stream import Batch, ElasticStream
from data.tokenizer import end_of_text_id

Fields = dict[str, str]


@dataclass(frozen=True)
class Example:
    """A text to continue, and how it should go on."""

    prompt: str
    completion: str


def read_examples(
    path: Path, kind: Literal["completion", "classification"], prompt: str, completion: str
) -> list[Example]:
    """Read a .jsonl, .tsv or .csv file and fill the two templates with each row's fields.

    A template names fields in braces, as in "{question}\\n". A table has a header line; where the
    templates number the columns instead, as in "{0}\\n", it has none. TSV has no quoting, CSV has
    the usual one. Raises FileNotFoundError; ValueError that names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a .jsonl, .tsv or .csv file")
    templates = [_parse(prompt), _parse(completion)]
    names = [name for template in templates for _, name in template if name is not None]
    by_position = bool(names) and all(name.isdecimal() for name in names)
    examples = []
    for line, fields in _rows(path, by_position):
        for name in names:
            if name not in fields:
                raise ValueError(
                    f"{path} line {line} has no field {name!r}, only {', '.join(fields)}: "
                    "correct the template ({0}, {1} count columns in a table without a header)"
                )
        example = Example(*(_fill(template, fields) for template in templates))
        if not example.completion.strip():
            raise ValueError(f"{path} line {line} has an empty completion: fill it or drop the line")
        examples.append(example)
    if not examples:
        raise ValueError(f"{path} has no examples: give a file with at least one")
    if kind == "classification" and len(labels(examples)) < 2:
        raise ValueError(f"{path} has only the label {examples[0].completion!r}: classification needs two")
    return examples


@dataclass(frozen=True)
class TaskSets:
    """A task's two checked sets; `labels` are those of a classification, sorted, and empty otherwise."""

    train: list[Example]
    validation: list[Example]
    labels: list[str]


def read_task_sets(
    train: Path, validation: Path, kind: Literal["completion", "classification"], prompt: str, completion: str
) -> TaskSets:
    """Read both sets of a task.

    Raises what `read_examples` does; ValueError also for a validation label that training never shows.
    """
    seen, asked = (read_examples(path, kind, prompt, completion) for path in (train, validation))
    if kind == "completion":
        return TaskSets(seen, asked, labels=[])
    known = labels(seen)
    unseen = [label for label in labels(asked) if label not in known]
    if unseen:
        raise ValueError(f"{validation}: label {unseen[0]!r} does not occur in {train}: correct one of them")
    return TaskSets(seen, asked, labels=known)


def labels(examples: Sequence[Example]) -> list[str]:
    """Return the distinct completions, sorted."""
    return sorted({example.completion for example in examples})


def encode(
    prompt: str, completion: str, tokenizer: Tokenizer, sequence_length: int
) -> tuple[list[int], list[bool]]:
    """Return at most `sequence_length` + 1 token ids, and for each target whether it counts.

    The targets are ids[1:]; those of the completion and of its end-of-text count. What does not fit
    is cut off at the prompt's left; a completion that alone does not fit loses its right end. A
    missing prompt is replaced by end-of-text, so that the first token of the completion has
    something to be predicted from.
    """
    end = end_of_text_id(tokenizer)
    answer = [*tokenizer.encode(completion, add_special_tokens=False).ids, end][:sequence_length]
    question = tokenizer.encode(prompt, add_special_tokens=False).ids or [end]
    question = question[-(sequence_length + 1 - len(answer)) :]
    return question + answer, [False] * (len(question) - 1) + [True] * len(answer)


class TaskStream(ElasticStream):
    """Fine-tuning batches: the same protocol and guarantees as ShardStream."""

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: Tokenizer,
        *,
        rank: int,
        world_size: int,
        global_batch: int,
        sequence_length: int,
        seed: int,
    ) -> None:
        """Raises ValueError without examples, or if the ranks cannot share the batch evenly."""
        if not examples:
            raise ValueError("there are no examples: give at least one")
        if sequence_length < 1:
            raise ValueError(f"sequence_length is {sequence_length}: it must be at least 1")
        self._examples = examples
        self._tokenizer = tokenizer
        self._sequence_length = sequence_length
        texts = json.dumps([asdict(example) for example in examples]).encode("utf-8")
        digest = order_digest(hashlib.sha256(texts).hexdigest(), seed)
        order = GlobalOrder([len(examples)], seed)
        super().__init__(order, digest, rank, world_size, global_batch)

    def _batches(self, ids: np.ndarray) -> list[Batch]:
        return [self._batch(row) for row in ids]

    def _batch(self, ids: np.ndarray) -> Batch:
        end = end_of_text_id(self._tokenizer)
        tokens = torch.full((len(ids), self._sequence_length + 1), end, dtype=torch.int64)
        mask = torch.zeros((len(ids), self._sequence_length), dtype=torch.bool)
        for row, example in enumerate(self._examples[i] for i in ids):
            encoded, counts = encode(
                example.prompt, example.completion, self._tokenizer, self._sequence_length
            )
            tokens[row, : len(encoded)] = torch.tensor(encoded)
            mask[row, : len(counts)] = torch.tensor(counts)
        return Batch(tokens, torch.from_numpy(ids), mask)


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


def _rows(path: Path, by_position: bool) -> Iterator[tuple[int, Fields]]:
    """Yield each row's line number and fields."""
    readers = {".jsonl": _json_rows, ".tsv": _table_rows, ".csv": _table_rows}
    if path.suffix not in readers:
        raise ValueError(f"{path} ends in {path.suffix!r}: give a .jsonl, .tsv or .csv file")
    try:
        yield from readers[path.suffix](path, by_position)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}): convert it") from None


def _json_rows(path: Path, by_position: bool) -> Iterator[tuple[int, Fields]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise ValueError(f"{path} line {number} is not JSON: correct it") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path} line {number} is not a JSON object: write {{...}}")
            yield number, {name: _as_text(path, number, name, row[name]) for name in row}


def _as_text(path: Path, line: int, name: str, value: object) -> str:
    """Return a JSON string as it is, a number or truth value as JSON writes it."""
    if not isinstance(value, str | int | float):
        raise ValueError(f"{path} line {line}: field {name!r} is not a text or a number")
    text = value if isinstance(value, str) else json.dumps(value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{path} line {line}: field {name!r} has half of a surrogate pair")
    return text


def _table_rows(path: Path, by_position: bool) -> Iterator[tuple[int, Fields]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".tsv":
            reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            reader = csv.reader(file, strict=True)
        header: list[str] | None = None
        try:
            for row in reader:
                if not row:
                    continue
                if header is None:
                    header = [str(i) for i in range(len(row))] if by_position else row
                    if len(set(header)) != len(header):
                        raise ValueError(f"{path} names two columns alike: rename one")
                    if not by_position:
                        continue
                if len(row) != len(header):
                    raise ValueError(
                        f"{path} line {reader.line_num} has {len(row)} columns, the first line has "
                        f"{len(header)}: correct it"
                    )
                yield reader.line_num, dict(zip(header, row, strict=True))
        except csv.Error as error:
            raise ValueError(f"{path} line {reader.line_num} is malformed: {error}") from None
