"""Tasks with stored results, so that a build that was killed continues where it stopped."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Generic, TypeVar, cast

from pydantic import BaseModel

from odeformer.files.atomic import new_file
from odeformer.files.lock import locked

Result = TypeVar("Result", bound=BaseModel)

RESULT = ".json"
"""Suffix of the file with a task's result."""

Done = tuple[str, BaseModel]
"""A task's name and its result."""

Run = Callable[[Callable[["Task[Any]"], Done], Sequence["Task[Any]"]], Iterable[Done]]
"""A function that calls another one with each of some tasks and yields the results in any order."""


@dataclass(frozen=True)
class Task(ABC, Generic[Result]):
    """A part of the build: a pure function of its fields, with a result and files.

    It may run several times, on any machine that shares ``folder``, and always writes the same bytes.
    """

    folder: Path
    name: str

    suffixes: ClassVar[tuple[str, ...]] = ()
    result: ClassVar[type[BaseModel]]

    @abstractmethod
    def work(self) -> Result:
        """Write the task's files with :meth:`writing`, and return its result."""

    def file(self, suffix: str) -> Path:
        """The path of one of the task's files."""
        return self.folder / f"{self.name}{suffix}"

    @contextmanager
    def writing(self, suffix: str) -> Iterator[BinaryIO]:
        """Yield a file to write, which is published under the task's name at the end of the block."""
        # The task may also be running on a node that was wrongly declared dead, in a file of another name.
        with new_file(self.file(suffix)) as path, path.open("xb") as file:
            yield file

    def finished(self) -> Result | None:
        """The stored result if the task is finished and its files are complete, else None."""
        try:
            stored = json.loads(self.file(RESULT).read_bytes())
            sizes = {suffix: self.file(suffix).stat().st_size for suffix in self.suffixes}
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        if stored["files"] != sizes:
            return None
        return cast(Result, self.result.model_validate(stored["result"]))


def perform(task: Task[Any]) -> Done:
    """Run a task, and store its result after its files are written."""
    result = task.work()
    sizes = {suffix: task.file(suffix).stat().st_size for suffix in task.suffixes}
    stored = {"result": result.model_dump(mode="json"), "files": sizes}
    with task.writing(RESULT) as file:
        file.write(json.dumps(stored).encode("utf-8"))
    return task.name, result


def one_after_the_other(function: Callable[[Task[Any]], Done], tasks: Sequence[Task[Any]]) -> Iterator[Done]:
    """Run tasks sequentially in this process."""
    return map(function, tasks)


def run_tasks(tasks: Sequence[Task[Any]], run: Run, done: Callable[[Any, bool], None]) -> list[Any]:
    """The results of tasks, in their order; finished tasks are not run again.

    Args:
        tasks: the tasks.
        run: runs the tasks that are not finished.
        done: called with each result when it is available, and whether it is new.
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
    """Yield the folder beside ``out`` with a build's finished tasks, which is removed after the build.

    Finished tasks of an earlier build are kept if it had the same key. An error in the input (ValueError,
    FileNotFoundError) also removes the folder, since tasks are of no use for other input; other errors do
    not.

    Raises:
        ValueError: if another build is using the folder.
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
        key_file = folder / "key"
        if not key_file.is_file() or key_file.read_text(encoding="utf-8") != key:
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != "lock":
                    path.unlink()
            key_file.write_text(key, encoding="utf-8")
        try:
            yield folder
        except (ValueError, FileNotFoundError):
            shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)
