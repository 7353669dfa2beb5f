"""Tasks whose results outlive the process: a build that was killed goes on where it was."""

import json
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Generic, TypeVar

from pydantic import BaseModel

from odeformer.files.lock import locked

Result = TypeVar("Result", bound=BaseModel)

RESULT = ".json"

Done = tuple[str, BaseModel]
"""A task's name and its result."""

Run = Callable[[Callable[["Task[Any]"], Done], Sequence["Task[Any]"]], Iterable[Done]]
"""Calls a function with each of some tasks and gives what it returns, in any order, as it comes."""


@dataclass(frozen=True)
class Task(ABC, Generic[Result]):
    """A piece of the build: a pure function of its fields, with files beside its result.

    It may run twice, or anywhere that sees `folder`; it writes the same bytes.
    """

    folder: Path
    name: str

    suffixes: ClassVar[tuple[str, ...]] = ()
    result: ClassVar[type[BaseModel]]

    @abstractmethod
    def work(self) -> Result:
        """Write the task's files with `writing`, and return its result."""

    def file(self, suffix: str) -> Path:
        """Return where one of the task's files is."""
        return self.folder / f"{self.name}{suffix}"

    @contextmanager
    def writing(self, suffix: str) -> Iterator[BinaryIO]:
        """Give a file to write; it appears whole, under the task's name, at the end.

        A result is not forced down to the disk: what it vouches for is, and one that is lost is found
        again.
        """
        # Under a name of its own: the same task may run elsewhere, after a node that was only thought dead.
        temporary = self.folder / f"{self.name}{suffix}.{uuid.uuid4().hex}"
        with temporary.open("xb") as file:
            yield file
            if suffix != RESULT:
                file.flush()
                os.fsync(file.fileno())
        temporary.rename(self.file(suffix))

    def finished(self) -> Result | None:
        """Return the result if the task was done and all of its files are still there, or None."""
        try:
            noted = json.loads(self.file(RESULT).read_bytes())
            sizes = {suffix: self.file(suffix).stat().st_size for suffix in self.suffixes}
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return self.result.model_validate(noted["result"]) if noted["files"] == sizes else None  # type: ignore[return-value]


def perform(task: Task[Any]) -> Done:
    """Do a task and note its result behind its files."""
    result = task.work()
    sizes = {suffix: task.file(suffix).stat().st_size for suffix in task.suffixes}
    noted = {"result": result.model_dump(mode="json"), "files": sizes}
    with task.writing(RESULT) as file:
        file.write(json.dumps(noted).encode("utf-8"))
    return task.name, result


def one_after_the_other(function: Callable[[Task[Any]], Done], tasks: Sequence[Task[Any]]) -> Iterator[Done]:
    """Run tasks in this process."""
    return map(function, tasks)


def run_tasks(tasks: Sequence[Task[Any]], run: Run, done: Callable[[Any, bool], None]) -> list[Any]:
    """Return the tasks' results, in the tasks' order; what was finished before is not done again.

    `done` is told each result as it comes, and whether it is new.
    """
    results: dict[str, Any] = {}
    for task in tasks:
        result = task.finished()
        if result is not None:
            results[task.name] = result
            done(result, False)
    missing = [task for task in tasks if task.name not in results]
    for name, result in run(perform, missing):
        results[name] = result
        done(result, True)
    return [results[task.name] for task in tasks]


@contextmanager
def scratch_folder(out: Path, key: str) -> Iterator[Path]:
    """Give the folder beside `out` that keeps a build's finished tasks, until the build is through.

    It holds what an earlier build with the same key has left; anything else is removed first. A mistake
    in the input (ValueError, FileNotFoundError) removes it too: with other input, nothing in it would be
    of use. After any other end it stays. Raises ValueError while another build works in it.
    """
    folder = out.with_name(f".{out.name}.building")
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / "lock", wait=False))
        except BlockingIOError:
            raise ValueError(
                f"another build is making {out}: wait for it, or choose another folder"
            ) from None
        noted = folder / "key"
        if not noted.is_file() or noted.read_text() != key:
            _remove([path for path in folder.iterdir() if path.name != "lock"])
            noted.write_text(key)
        try:
            yield folder
        except (ValueError, FileNotFoundError):
            shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
