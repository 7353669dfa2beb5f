"""The two sets of examples of a fine-tuning task, read and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.corpus import digest_is_held_out
from data.tasks.example import Example
from data.tasks.kinds import kind_named


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
    train: Path, validation: Path | None, kind: str, prompt: str, completion: str, held_out: float = 0.1
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
    if not kind_named(kind).labelled:
        return TaskSets(seen, asked, labels=[])
    known = labels(seen)
    if len(known) < 2:
        raise ValueError(f"{train} has only the label {known[0]!r}: classification needs two")
    unseen = [label for label in labels(asked) if label not in known]
    if unseen:
        raise ValueError(f"{validation}: label {unseen[0]!r} does not occur in {train}: correct one of them")
    return TaskSets(seen, asked, labels=known)


def read_examples(path: Path, kind: str, prompt: str, completion: str, split: str = "train") -> list[Example]:
    """The examples of a file or a folder, as the task's kind reads them.

    Raises:
        FileNotFoundError, ValueError: naming file and line.
    """
    examples = kind_named(kind).read(path, prompt, completion, split)
    if not examples:
        raise ValueError(f"{path} has no examples: give a file with at least one")
    return examples


def labels(examples: Sequence[Example]) -> list[str]:
    """Return the distinct completions, sorted."""
    return sorted({example.completion for example in examples})
