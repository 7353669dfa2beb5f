"""Mirror of commits in S3 or any other fsspec store, from which a new machine can resume.

A commit in the mirror is complete if it has a manifest, which is copied last and removed first.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, cast

from cluster.checkpoints import folder, identity
from cluster.checkpoints.identity import RunIdentity
from cluster.runs.events import Event
from cluster.settings import CheckpointSettings
from data.remote import Remote, file_system
from odeformer.files.errors import reason
from odeformer.files.shown import masked


class OwnerError(ValueError):
    """The mirror belongs to another run."""


class Mirror:
    """A run's commits in a remote store. Only rank 0 has one.

    Args:
        run: folder of the run, with its identity.
    """

    def __init__(self, address: str, run: Path, settings: CheckpointSettings) -> None:
        self.address = address.rstrip("/")
        self._settings = settings
        self._run = run
        self._system = file_system(self.address)

    def owner(self) -> RunIdentity | None:
        """The identity of the run that the mirror belongs to, if any.

        Raises:
            Exception: one of the store's own, if it cannot be reached.
        """
        for read in (self._recorded, lambda: self.newest_commit().get("run")):
            with suppress(ValueError):  # damaged
                if owner := read():
                    return owner
        return None

    def _recorded(self) -> RunIdentity:
        return cast(RunIdentity, dict(json.loads(self._read(identity.FILE_NAME) or b"{}")))

    def claim(self) -> None:
        """Make this mirror the run's own.

        Raises:
            OwnerError: if it is another run's; nothing in it is changed then.
            Exception: one of the store's own, if it cannot be reached.
        """
        ours, owner = identity.read(self._run), self.owner()
        if ours is None:
            return
        changed = [] if owner is None else identity.differences(owner, ours)
        if changed:
            raise OwnerError(
                f"checkpoint.mirror {masked(self.address)} belongs to another run, which differs in "
                f"{', '.join(changed)}: give each run its own"
            )
        content = json.dumps(ours, indent=2).encode()
        if self._read(identity.FILE_NAME) != content:
            self._system.pipe_file(self._at(identity.FILE_NAME), content)

    def send(self, commit: Path) -> None:
        """Copy a commit and the permanent ones that the mirror lacks; remove those that they supersede.

        Raises:
            OwnerError: if the mirror is another run's; nothing in it is changed then.
            Exception: one of the store's own, if it cannot be reached. A repeated call continues.
        """
        self.claim()
        self._copy(commit)
        if self._settings.keep_every is not None:
            for earlier in folder.commits(commit.parent):
                if folder.step_of(earlier) % self._settings.keep_every == 0 and earlier != commit:
                    self._copy(earlier)
        names = self._names()
        complete = [name for name in names if self._manifest(name) is not None]
        superseded = [old.name for old in folder.superseded([*map(Path, complete)], self._settings)]
        for name in names:
            if name not in complete or name in superseded:
                self._remove(name)

    def _copy(self, commit: Path) -> None:
        manifest = (commit / folder.MANIFEST).read_bytes()
        if self._manifest(commit.name) == manifest:
            return
        self._remove(commit.name)  # from before a rollback, or incomplete
        for path in sorted(path for path in commit.rglob("*") if path.is_file()):
            if path.name != folder.MANIFEST:
                self._system.put_file(str(path), self._at(commit.name, path.relative_to(commit)))
        if (commit / folder.MANIFEST).read_bytes() != manifest:
            raise FileNotFoundError(f"{commit} was replaced while it was copied")
        self._system.pipe_file(self._at(commit.name, folder.MANIFEST), manifest)

    def fetch(self, place: Path) -> folder.Newest:
        """Download the newest undamaged commit into a folder that has none.

        Raises:
            OSError: when the store cannot be reached, so that it is unknown whether it has a commit.
            OwnerError: when it belongs to another run.
        """
        damaged: list[tuple[int, str]] = []
        try:
            self.claim()
            names = self._names()
        except OwnerError:
            raise
        except Exception as error:  # noqa: BLE001 - any store's
            cause = f"{type(error).__name__}: {reason(error)}"
            raise OSError(
                f"{masked(self.address)} cannot be read, and {place} holds no checkpoint to resume from "
                f"({cause})"
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
            folder.put_in_place(incomplete, content["step"], self._settings)
            return folder.Newest(place / name, content, damaged)
        return folder.Newest(None, {}, damaged)

    def newest_commit(self) -> folder.Content:
        """The manifest of the newest commit, empty if there is none."""
        content: folder.Content = json.loads(
            next(filter(None, map(self._manifest, reversed(self._names()))), b"{}")
        )
        return content

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

    def _names(self) -> list[str]:
        """Names of all commits, oldest first, including incomplete ones."""
        try:
            paths = self._system.ls(self.address, detail=False)
        except FileNotFoundError:
            return []
        names = {PurePosixPath(path).name for path in paths}
        return sorted(filter(folder.is_name, names), key=lambda name: folder.step_of(Path(name)))

    def _manifest(self, name: str) -> bytes | None:
        return self._read(name, folder.MANIFEST)

    def _read(self, *parts: str) -> bytes | None:
        try:
            return bytes(self._system.cat_file(self._at(*parts)))
        except FileNotFoundError:
            return None

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._system.rm_file(self._at(name, folder.MANIFEST))
        with suppress(FileNotFoundError):
            self._system.rm(self._at(name), recursive=True)

    def _at(self, *parts: str | Path) -> str:
        return "/".join([self.address, *map(str, parts)])


class MirrorThread:
    """Copies the newest commit to a mirror from a thread, beside training.

    Commits that are offered while one is being copied are left out; :meth:`finish` copies the last of them.

    Args:
        report: called as ``report(event, step, values)`` from the thread.
    """

    def __init__(self, mirror: Mirror, report: Callable[[str, int, Mapping[str, Any]], object]) -> None:
        self._mirror, self._report = mirror, report
        self._thread: threading.Thread | None = None
        self._copied: Path | None = None
        self._left_out: Path | None = None

    @property
    def on_its_way(self) -> Path | None:
        """The commit that is being copied, and must stay until then."""
        return self._copied if self._thread is not None and self._thread.is_alive() else None

    def offer(self, commit: Path) -> None:
        """Begin to copy a commit, unless another one is being copied."""
        if self.on_its_way is not None:
            self._left_out = commit
            return
        self._copied, self._left_out = commit, None
        self._thread = threading.Thread(target=self._send, args=(commit,), daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> bool:
        """Wait for at most this long; returns whether all that was offered is copied, or has failed."""
        if self._thread is not None:
            self._thread.join(seconds)
        if self.on_its_way is None and self._left_out is not None:
            self.offer(self._left_out)
        return self.on_its_way is None

    def _send(self, commit: Path) -> None:
        started, step = time.monotonic(), folder.step_of(commit)
        try:
            self._mirror.send(commit)
        except Exception as error:  # noqa: BLE001 - any store's; the local commit is safe
            cause = f"{type(error).__name__}: {reason(error)}"
            self._report(Event.MIRROR_AWAY, step, {"reason": f"{self._mirror.address}: {cause}"})
        else:
            self._report(Event.CHECKPOINT_MIRRORED, step, {"mirror_seconds": time.monotonic() - started})


def newest_commit(run: Path, settings: CheckpointSettings) -> folder.Content:
    """The manifest of the newest commit in a run's folder, or else in its mirror; empty if unreadable."""
    local = folder.commits(run / "checkpoints")
    with suppress(Exception):  # a damaged commit or an unreachable mirror is reported when it is loaded
        if local:
            content: folder.Content = json.loads((local[-1] / folder.MANIFEST).read_bytes())
            return content
        if settings.mirror is not None:
            return Mirror(settings.mirror, run, settings).newest_commit()
    return {}


def has_commit(run: Path, settings: CheckpointSettings) -> bool:
    """Whether a run's folder has a commit, of whatever condition, or its mirror a complete one."""
    return bool(folder.commits(run / "checkpoints") or newest_commit(run, settings))


def recorded_owner(run: Path, settings: CheckpointSettings) -> RunIdentity | None:
    """The identity of the run that a mirror belongs to, if there is one and the store can be reached."""
    with suppress(Exception):  # an unreachable mirror is reported when it is used
        if settings.mirror is not None:
            return Mirror(settings.mirror, run, settings).owner()
    return None
