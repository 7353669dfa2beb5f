"""The kinds of fine-tuning tasks: how their examples are read and put into rows, and how results are scored.

To add one, write a module with a function that reads its examples, and give it an entry in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import AfterValidator

from data.tasks.example import AnyExample, Encodable

if TYPE_CHECKING:
    from data.chat import ChatTemplate

Rows = Literal["windows", "packed", "pairs"]
"""What a row of a batch holds: an example; as many whole examples as fit; one of the two of a pair."""
Read = Callable[[Path, str, str, str], list[Any]]
"""A function ``read(path, prompt, completion, split)`` that reads the examples of a file or folder. The
templates ``prompt`` and ``completion`` are filled with each row's fields; ``split`` is ``train`` or
``validation``."""


@dataclass(frozen=True)
class TaskKind:
    """A kind of fine-tuning task."""

    path: str
    """``module:function`` of its :data:`Read`, imported when examples are first read."""
    labeled: bool = False
    """Whether completions are labels, all of which occur in the training examples."""
    template: str | None = None
    """``module:function`` that makes tokens of an example with a chat template, which thereby belongs to the
    result; None for kinds whose examples are texts."""
    rows: Rows = "windows"

    @property
    def score(self) -> Literal["loss", "accuracy"]:
        """The default score of a result."""
        return "accuracy" if self.has_accuracy else "loss"

    @property
    def has_accuracy(self) -> bool:
        """Whether its examples can be right or wrong."""
        return self.labeled or self.rows == "pairs"

    @property
    def read(self) -> Read:
        """The function that reads its examples."""
        return cast(Read, resolve_name(self.path))

    def tokenized(self, examples: list[Any], chat: ChatTemplate) -> list[Encodable]:
        """The examples as a stream takes them.

        Raises:
            ValueError: naming the place of one that the template refuses.
        """
        if self.template is None:
            return list(examples)
        tokenize: Callable[[AnyExample, ChatTemplate], Encodable] = resolve_name(self.template)
        return [tokenize(example, chat) for example in examples]


KINDS = {
    "completion": TaskKind("data.tasks.tables:read_table"),
    "classification": TaskKind("data.tasks.tables:read_table", labeled=True),
    "language_model": TaskKind("data.tasks.texts:read_texts"),
    "chat": TaskKind("data.tasks.chats:read_chats", template="data.tasks.chats:tokenized", rows="packed"),
    "preference": TaskKind(
        "data.tasks.preferences:read_preferences", template="data.tasks.preferences:tokenized", rows="pairs"
    ),
}


def kind_named(name: str) -> TaskKind:
    """Look up a kind of task.

    Raises:
        ValueError: for an unknown name, listing the known ones.
    """
    if name not in KINDS:
        raise ValueError(f"kind {name!r} is unknown; there are: {', '.join(KINDS)}")
    return KINDS[name]


def _known(name: str) -> str:
    kind_named(name)
    return name


KindName = Annotated[str, AfterValidator(_known)]
"""The type of settings that hold a key of ``KINDS``."""
