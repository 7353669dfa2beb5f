"""Teams' files in the pool's folder: ``.uploads/TEAM/ID/NAME``, each whole or not there at all."""

from __future__ import annotations

import re
import secrets
import shutil
from itertools import count
from pathlib import Path
from typing import IO

from openai.types import FileObject

from cluster.door.form import TABLES
from cluster.door.refusals import bad_file, bad_request
from cluster.door.settings import DoorSettings
from data.tasks.rows import read_rows
from odeformer.files.atomic import new_folder

FOLDER = ".uploads"
"""Folder in the pool's ``dir``; no team can be called so."""
PURPOSE = "fine-tune"
LONGEST_NAME = 100
FILE_ID = re.compile(r"file-[0-9a-f]{24}")


class Files:
    """The files of all teams. Every method sees those of one team alone.

    Args:
        pool_folder: the pool's ``dir``.
    """

    def __init__(self, pool_folder: Path, settings: DoorSettings) -> None:
        self.folder, self._settings = pool_folder / FOLDER, settings

    def add(self, team: str, name: str, received: IO[bytes]) -> FileObject:
        """Check a file that was received, and keep it.

        Raises:
            ApiError: naming what is wrong with its name, its size, or a line.
        """
        _check_name(name)
        most, kept = self._settings, self.all(team)
        if len(kept) >= most.most_files:
            raise bad_request(
                f"the team has {len(kept)} files, the most: delete some", "file", "storage_full"
            )
        if sum(file.bytes for file in kept) + received.tell() > most.most_team_bytes:
            message = f"the team's files would be larger than {most.most_team_bytes} bytes: delete some"
            raise bad_request(message, "file", "storage_full")
        folder = self.folder / team / f"file-{secrets.token_hex(12)}"
        with new_folder(folder) as beside:
            received.seek(0)
            with (beside / name).open("wb") as file:
                shutil.copyfileobj(received, file, 2**20)
            try:
                self._check(beside / name)
            except ValueError as error:
                raise bad_file(str(error).replace(f"{beside}/", ""), "file") from None
        return file_object(folder / name)

    def all(self, team: str) -> list[FileObject]:
        """A team's files, newest first."""
        found = [
            path for path in (self.folder / team).glob("file-*/*") if FILE_ID.fullmatch(path.parent.name)
        ]
        newest_first = sorted(found, key=lambda path: (path.stat().st_mtime_ns, path), reverse=True)
        return [file_object(path) for path in newest_first]

    def path(self, team: str, file_id: str) -> Path | None:
        """The path of a team's file; ``None`` if the team has none of that id."""
        if not FILE_ID.fullmatch(file_id):
            return None
        return next((self.folder / team / file_id).glob("*"), None)

    def delete(self, path: Path) -> None:
        """Delete a file."""
        gone = path.parent.with_name(f".{path.parent.name}.deleted")
        path.parent.rename(gone)
        shutil.rmtree(gone)

    def _check(self, path: Path) -> None:
        """Check that the lines are of moderate size and number, and are rows of a table.

        Raises:
            ValueError: naming the line.
        """
        most = self._settings
        with path.open("rb") as file:
            for number in count(1):
                length = len(file.readline(most.most_line_bytes + 1))
                if length > most.most_line_bytes:
                    raise ValueError(
                        f"{path} line {number} is longer than {most.most_line_bytes} bytes: cut it"
                    )
                if not length:
                    break
                if number > most.most_lines:
                    raise ValueError(f"{path} has more than {most.most_lines} lines: split it")
        row = None
        for row in read_rows(path, (), "train"):
            if len(row.fields) > most.most_fields:
                raise ValueError(
                    f"{row.place} has {len(row.fields)} fields, more than {most.most_fields}: drop some"
                )
        if row is None:
            raise ValueError(f"{path} has no examples: give at least one line")


def file_object(path: Path) -> FileObject:
    """A file in OpenAI's form."""
    status = path.stat()
    return FileObject(
        id=path.parent.name,
        bytes=status.st_size,
        created_at=int(status.st_mtime),
        filename=path.name,
        object="file",
        purpose="fine-tune",
        status="processed",
    )


def _check_name(name: str) -> None:
    is_plain = name.isprintable() and not set(name) & set("/\\") and not name.startswith(".")
    if not is_plain or len(name.encode()) > LONGEST_NAME:
        raise bad_request(
            f"the file's name {name[:LONGEST_NAME]!r} is not a plain one of up to {LONGEST_NAME} bytes",
            "file",
        )
    if Path(name).suffix not in TABLES:
        raise bad_request(
            f"the file's name {name!r} does not end in {', '.join(TABLES)}: give such a table, neither "
            "compressed nor Parquet, of which a small file may hold any amount",
            "file",
        )
