"""Mirror of commits in S3 or any other fsspec store, from which a new machine can resume.

A commit in the mirror is complete if it has a manifest, which is copied last and removed first.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from cluster.checkpoints import folder
from cluster.settings import CheckpointSettings
from data.remote import Remote, file_system
from odeformer.files.errors import reason
from odeformer.files.shown import masked

IDENTITY = "run.json"
"""File in ``run.dir`` with the identity of its run, which must match to resume it."""


class Mirror:
    """A run's commits in a remote store. Only rank 0 has one.

    Args:
        run: folder of the run, with its identity.
    """

    def __init__(self, address: str, run: Path, settings: CheckpointSettings) -> None:
        self._address, self._settings = address.rstrip("/"), settings
        self._identity = run / IDENTITY
        self._system = file_system(self._address)

    def send(self, place: Path) -> None:
        """Copy the missing ones of a folder's commits, and remove those that they supersede.

        Raises:
            Exception: one of the store's own, if it cannot be reached. A repeated call continues.
        """
        for commit in folder.commits(place):
            manifest = (commit / folder.MANIFEST).read_bytes()
            if self._manifest(commit.name) != manifest:
                self._remove(commit.name)  # from before a rollback, or incomplete
                for path in sorted(path for path in commit.rglob("*") if path.is_file()):
                    if path.name != folder.MANIFEST:
                        self._system.put_file(str(path), self._at(commit.name, path.relative_to(commit)))
                self._system.pipe_file(self._at(commit.name, folder.MANIFEST), manifest)
        names = self._names()
        complete = [name for name in names if self._manifest(name) is not None]
        superseded = [old.name for old in folder.superseded([*map(Path, complete)], self._settings)]
        for name in names:
            if name not in complete or name in superseded:
                self._remove(name)

    def fetch(self, place: Path) -> folder.Newest:
        """Download the newest undamaged commit into a folder that has none.

        Raises:
            OSError: when the store cannot be reached, so that it is unknown whether it has a commit.
            ValueError: when it holds the commits of another run.
        """
        damaged: list[tuple[int, str]] = []
        try:
            names = self._names()
        except Exception as error:  # noqa: BLE001 - any store's
            cause = f"{type(error).__name__}: {reason(error)}"
            raise OSError(
                f"{masked(self._address)} cannot be read, and {place} holds no checkpoint ({cause})"
            ) from None
        for name in reversed(names):
            manifest = self._manifest(name)
            if manifest is None:
                continue
            incomplete = folder.aside(place / name, "incomplete")
            try:
                self._download(name, manifest, incomplete)
                content = folder.verified(incomplete)
            except ValueError as error:
                shutil.rmtree(incomplete)
                damaged.append((folder.step_of(place / name), f"{masked(self._at(name))}: {error}"))
                continue
            self._check_identity(content)
            folder.put_in_place(incomplete, content["step"], self._settings)
            return folder.Newest(place / name, content, damaged)
        return folder.Newest(None, {}, damaged)

    def newest_manifest(self) -> bytes:
        """The manifest of the newest commit, or ``{}`` if there is none."""
        return next(filter(None, map(self._manifest, reversed(self._names()))), b"{}")

    def _download(self, name: str, manifest: bytes, incomplete: Path) -> None:
        shutil.rmtree(incomplete, ignore_errors=True)
        incomplete.mkdir(parents=True)
        (incomplete / folder.MANIFEST).write_bytes(manifest)
        try:
            files = list(json.loads(manifest)["files"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder.MANIFEST} cannot be read: {type(error).__name__}") from None
        for file in files:
            if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
                raise ValueError(f"{file!r} is not a valid file name in a commit")
            target = incomplete / file
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # verification reports missing files
                Remote(self._at(name)).download(file, target)

    def _check_identity(self, content: folder.Content) -> None:
        ours = identity(self._identity.parent)
        if ours is not None and content.get("run") not in (None, ours):
            raise ValueError(
                f"checkpoint.mirror {masked(self._address)} holds the checkpoints of another run: "
                "give each run its own"
            )

    def _names(self) -> list[str]:
        """Names of all commits, oldest first, including incomplete ones."""
        try:
            paths = self._system.ls(self._address, detail=False)
        except FileNotFoundError:
            return []
        names = {PurePosixPath(path).name for path in paths}
        return sorted(name for name in names if name.startswith("step-"))

    def _manifest(self, name: str) -> bytes | None:
        try:
            return bytes(self._system.cat_file(self._at(name, folder.MANIFEST)))
        except FileNotFoundError:
            return None

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._system.rm_file(self._at(name, folder.MANIFEST))
        with suppress(FileNotFoundError):
            self._system.rm(self._at(name), recursive=True)

    def _at(self, *parts: str | Path) -> str:
        return "/".join([self._address, *map(str, parts)])


def identity(run: Path) -> dict[str, Any] | None:
    """The identity that is recorded in a run's folder, if any."""
    try:
        return dict(json.loads((run / IDENTITY).read_text()))
    except FileNotFoundError:
        return None


def committed_run(run: Path, settings: CheckpointSettings) -> str | None:
    """The id of the MLflow run in the newest commit, for a folder that does not know it."""
    local = folder.commits(run / "checkpoints")
    with suppress(Exception):  # a damaged commit or an unreachable mirror is reported when it is loaded
        if local:
            manifest = (local[-1] / folder.MANIFEST).read_bytes()
        elif settings.mirror is not None:
            manifest = Mirror(settings.mirror, run, settings).newest_manifest()
        else:
            return None
        return json.loads(manifest).get("mlflow_run")
    return None
