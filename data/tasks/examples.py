"""The training and validation examples of a fine-tuning task."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from operator import not_
from pathlib import Path
from typing import Any

from data.chat import ChatTemplate
from data.corpus import digest_is_held_out
from data.tasks.example import Example
from data.tasks.kinds import kind_named


@dataclass(frozen=True)
class TaskSets:
    """A task's training and validation examples, or what :meth:`tokenized` makes of them."""

    train: list[Any]
    validation: list[Any]
    labels: list[str]
    """The sorted labels of a classification, otherwise empty."""

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of both sets' examples in order, wherever they were read from."""
        both = hashlib.sha256()
        for examples in (self.train, self.validation):
            both.update(len(examples).to_bytes(8, "big"))
            for example in examples:
                both.update(example.digest())
        return both.hexdigest()

    def tokenized(self, kind: str, chat: ChatTemplate) -> TaskSets:
        """Both sets as a stream takes them.

        Raises:
            ValueError: naming file and line of an example that the chat template refuses.
        """
        train, validation = (kind_named(kind).tokenized(each, chat) for each in (self.train, self.validation))
        return replace(self, train=train, validation=validation)


def read_task_sets(
    train: Path, validation: Path | None, kind: str, prompt: str, completion: str, held_out: float = 0.1
) -> TaskSets:
    """Read both sets of a task, with the kind and the templates of :mod:`data.tasks.kinds`.

    Without ``validation``, a fraction ``held_out`` of the training examples is held out, by their digests.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_examples`; also for an empty set, or a validation label
            that does not occur in training.
    """
    in_training = read_examples(train, kind, prompt, completion, "train")
    if validation is not None:
        in_validation = read_examples(validation, kind, prompt, completion, "validation")
    else:
        validation = train
        # By their texts, so that the same example is never on both sides.
        is_held_out = [digest_is_held_out(example.digest(), held_out) for example in in_training]
        in_validation = list(compress(in_training, is_held_out))
        in_training = list(compress(in_training, map(not_, is_held_out)))
        if not (in_training and in_validation):
            raise ValueError(
                f"{train}: of {len(is_held_out)} examples {len(in_validation)} are held out at held_out "
                f"{held_out}, and each side needs one: give more, or a validation file"
            )
    if not kind_named(kind).labeled:
        return TaskSets(in_training, in_validation, labels=[])

    known = labels(in_training)
    alike: dict[str, str] = {}
    for label in known:
        other = alike.setdefault(_plain(label), label)
        if other != label:
            raise ValueError(
                f"{train}: labels {other!a} and {label!a} differ only in white space or in the way "
                "their characters are stored: write them alike"
            )
    if len(known) < 2:
        raise ValueError(f"{train} has only the label {known[0]!r}: classification needs two")
    unseen = [label for label in labels(in_validation) if label not in known]
    if unseen:
        like = alike.get(_plain(unseen[0]))
        raise ValueError(
            f"{validation}: label {unseen[0]!r} does not occur in {train}"
            + (f", where it is {like!a}, not {unseen[0]!a}" if like is not None else "")
            + ": correct one of them"
        )
    return TaskSets(in_training, in_validation, labels=known)


def read_examples(path: Path, kind: str, prompt: str, completion: str, split: str = "train") -> list[Any]:
    """The examples in a file or folder; arguments are those of :func:`read_task_sets`.

    Raises:
        FileNotFoundError, ValueError: naming file and line.
    """
    examples: list[Any] = kind_named(kind).read(path, prompt, completion, split)
    if not examples:
        raise ValueError(f"{path} has no examples: give a file with at least one")
    return examples


def _plain(label: str) -> str:
    """A label without invisible differences: white space around it, and the Unicode form."""
    return unicodedata.normalize("NFC", label).strip()


def labels(examples: Sequence[Example]) -> list[str]:
    """The distinct completions, sorted."""
    return sorted({example.completion for example in examples})
