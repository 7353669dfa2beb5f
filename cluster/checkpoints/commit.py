"""Commits: checkpoints that are written to a temporary folder, flushed, digested and renamed.

A thread on every rank does this. It first copies the state into host memory while training continues; only
the next optimizer step, which would change the state, waits for the copy.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import distributed as dist

from cluster.checkpoints import durable, folder, identity, random_state, scores, universal
from cluster.checkpoints.durable import TogetherError, on_rank_0, together
from cluster.checkpoints.mirror import Mirror, MirrorThread, OwnerError
from cluster.runs import heartbeat
from cluster.runs.events import Event
from cluster.runs.failures import PreemptedError
from cluster.settings import CheckpointSettings
from cluster.tracking import runs
from odeformer.files.shown import masked

STATE = "state"
"""Folder in a commit that DeepSpeed writes."""
FINISH_SECONDS = 1.0
"""Seconds between two signs of life of a run that waits for its mirror."""


class Cursor(Protocol):
    """Position of a run in its data, with any other state that belongs to it."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Checkpoints:
    """Saves and restores the commits of a run. All ranks call each method at the same step.

    At most one commit is in flight. The next one, :meth:`restore` and the end of the ``with`` block wait for
    it.

    Args:
        report: called as ``report(event, step, values)``, also from a thread.
        seed: seed of the ranks' random numbers, unless a commit restores them.

    Raises:
        TogetherError: when the disk has no room for as many commits as will be kept.
    """

    def __init__(
        self,
        engine: Any,
        stream: Cursor,
        place: Path,
        settings: CheckpointSettings,
        report: Callable[[str, int, Mapping[str, Any]], object],
        seed: int,
    ) -> None:
        self._engine, self._stream, self._folder = engine, stream, place
        self._settings, self._report, self._seed = settings, report, seed
        self._device = torch.device(engine.device)
        self._failed = 0
        self._files = durable.DurableFiles(engine.checkpoint_engine)
        engine.checkpoint_engine = self._files
        # Rank 0 would copy a recovery script into every commit, without a digest.
        engine._copy_recovery_script = lambda *_: None
        self._bytes = _bytes_of_commit(engine)
        self._mirror: Mirror | None = None
        self._mirror_thread: MirrorThread | None = None  # of rank 0
        on_rank_0(self._prepare)
        # A group of its own: collectives of two threads in one group would be mixed up.
        self._group = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._in_flight: Future[None] | None = None
        self._blocked = 0.0
        self._copied = threading.Event()
        self._hook = engine.basic_optimizer.register_step_pre_hook(self._before_update)
        if move := getattr(engine.optimizer, "_commit_muon_momentum", None):

            def move_after_copy() -> None:
                """ZeRO changes Muon's momentum before it calls the optimizer."""
                self._before_update()
                move()

            engine.optimizer._commit_muon_momentum = move_after_copy

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.wait()
        else:  # an error of the commit must not hide the one of the block
            with suppress(Exception):
                self.wait()
        if self._settings.mirror is not None and (kind is None or issubclass(kind, PreemptedError)):
            self._finish_mirror()
        self._thread.shutdown()
        self._hook.remove()

    def save(self, step: int) -> None:
        """Start to commit the engine's state and the stream's cursor as ``step-…``.

        Waits for the previous commit. The state must not change until the next optimizer step, which waits
        for the copy. A failed commit is removed and logged as ``checkpoint_failed``; earlier ones stay.

        Raises:
            RuntimeError: when ``checkpoint.max_failed`` commits have failed in a row.
        """
        started = time.monotonic()
        self.wait()
        incomplete = self._folder / f".{folder.name(step)}.incomplete"
        names = [] if self._engine.zero_optimization_stage() else universal.parameter_names(self._engine)
        self._files.begin()
        # Nothing is written yet: DeepSpeed calls ``DurableFiles.save``, which only records the state.
        self._engine.save_checkpoint(
            str(incomplete), tag=STATE, save_latest=False, client_state={universal.NAMES: names}
        )
        random = random_state.content(self._device)
        content: folder.Content = {
            "format_version": folder.FORMAT_VERSION,
            "step": step,
            "stream": self._stream.state_dict(),
            "workers": dist.get_world_size(),
            "stage": self._engine.zero_optimization_stage(),
        }
        self._copied.clear()
        self._blocked = time.monotonic() - started
        self._in_flight = self._thread.submit(self._finish, incomplete, content, random, started)

    def _before_update(self, *_: Any) -> None:
        """Wait for the copy. Called by the optimizer before each step."""
        if self._in_flight is not None:
            started = time.monotonic()
            self._copied.wait()
            self._blocked += time.monotonic() - started

    def wait(self) -> None:
        """Wait until the commit in flight is durable or has failed.

        Raises:
            RuntimeError: as in :meth:`save`.
        """
        if self._in_flight is None:
            return
        commit, self._in_flight = self._in_flight, None
        try:
            commit.result()
        except TogetherError as error:
            self._failed += 1
            if self._failed >= self._settings.max_failed:
                raise RuntimeError(
                    f"{self._failed} checkpoints in a row could not be written, the last {error}"
                ) from None
        else:
            self._failed = 0

    def _finish(self, incomplete: Path, content: folder.Content, random: bytes, started: float) -> None:
        """Write a commit, in the thread."""
        step = content["step"]
        self._files.copy()
        self._copied.set()
        try:
            on_rank_0(lambda: self._make_room(incomplete), self._group)
            files = together(lambda: self._write(incomplete, random), self._group)
            on_rank_0(lambda: self._commit(incomplete, content, files), self._group)
        except TogetherError as error:
            if dist.get_rank() == 0:
                shutil.rmtree(incomplete, ignore_errors=True)
            self._report(Event.CHECKPOINT_FAILED, step, {"reason": str(error)})
            raise TogetherError(f"at step {step}: {error}") from None
        seconds = {"checkpoint_seconds": time.monotonic() - started, "blocked_seconds": self._blocked}
        self._report(Event.CHECKPOINT, step, seconds)
        if self._mirror_thread is not None:
            self._mirror_thread.offer(self._folder / folder.name(step))

    def _finish_mirror(self) -> None:
        """Wait until the last commit is in the mirror. A run that does so makes progress, on all ranks."""

        def is_finished() -> bool:
            return self._mirror_thread is None or self._mirror_thread.finish(FINISH_SECONDS)

        while not on_rank_0(is_finished, self._group):
            heartbeat.passed()

    def _make_room(self, incomplete: Path) -> None:
        folder.collect_garbage(self._folder)
        try:
            folder.require_space(self._folder, self._bytes, commits=1)
        except OSError:
            # Commits that wait to be scored must not stop a run.
            for step in folder.prune(self._folder, self._settings, self._on_its_way()):
                reason = "removed before it was scored, since the disk is full"
                self._report(Event.NOT_SCORED, step, {"reason": reason})
            folder.require_space(self._folder, self._bytes, commits=1)
        incomplete.mkdir(parents=True)

    def _write(self, incomplete: Path, random: bytes) -> dict[str, str]:
        """Write this rank's files; returns their digests by name."""
        name = random_state.file_name(dist.get_rank())
        written = self._files.write(incomplete)
        written[name] = durable.write(incomplete / name, lambda file: file.write(random))
        heartbeat.passed()  # the other ranks wait for the slowest one here
        return written

    def _commit(self, incomplete: Path, content: folder.Content, files: list[dict[str, str]]) -> None:
        digests: dict[str, str] = {}
        for rank_files in files:
            digests.update(sorted(rank_files.items()))
        run = self._folder.parent
        owner = {"run": identity.read(run), "mlflow_run": runs.known_run(run)}
        text = json.dumps({**content, **owner, "files": digests}, indent=2)
        durable.write(incomplete / folder.MANIFEST, lambda file: file.write(text.encode()))
        in_use = [*self._on_its_way(), *scores.waiting(run)]
        folder.put_in_place(incomplete, content["step"], self._settings, in_use)

    def _on_its_way(self) -> list[Path]:
        """The commit that is being copied to the mirror, if any."""
        sent = None if self._mirror_thread is None else self._mirror_thread.on_its_way
        return [] if sent is None else [sent]

    def restore(self) -> int:
        """Load the newest undamaged commit.

        The engine may have trained before, and the commit may have been made by another number of workers or
        at another ZeRO stage. Damaged commits are moved aside and reported. If no local commit is good, the
        newest one of the mirror is downloaded.

        With the same number of workers, random numbers continue where the commit was made. Otherwise they
        start from the seed, the step and the rank.

        Returns:
            The step of the commit, 0 if there is none.

        Raises:
            TogetherError: when all commits are damaged, unless ``checkpoint.start_anew``.
            StorageError: when a commit cannot be read.
        """
        self.wait()
        newest = on_rank_0(self._newest_good)
        for step, reason in newest.damaged:
            self._report(Event.CHECKPOINT_DAMAGED, step, {"reason": reason})

        rank, step = dist.get_rank(), int(newest.content.get("step", 0))
        random_state.begin(self._seed, step, rank)
        if newest.commit is None:
            on_rank_0(lambda: self._check_may_start_anew(newest))
            return 0

        self._load(newest.commit, newest.content)
        self._stream.load_state_dict(newest.content["stream"])
        name = random_state.file_name(rank)
        if newest.content["workers"] == dist.get_world_size() and name in newest.content["files"]:
            random_state.load(newest.commit / name, self._device)
        return step

    def _check_may_start_anew(self, newest: folder.Newest) -> None:
        is_damaged = folder.has_damaged(self._folder) or newest.damaged
        if is_damaged and not self._settings.start_anew:
            mirror = "" if self._mirror is None else f" or {masked(self._mirror.address)}"
            raise RuntimeError(
                f"no checkpoint in {self._folder}{mirror} is undamaged: put one back, or train from step 0 "
                "with --set checkpoint.start_anew=true"
            )

    def _newest_good(self) -> folder.Newest:
        local = folder.newest_good(self._folder)
        if local.commit is not None or self._mirror is None:
            return local
        with heartbeat.transferring():
            remote = self._mirror.fetch(self._folder)
        if remote.commit is not None:
            reason = f"from {self._settings.mirror}"
            self._report(Event.CHECKPOINT_FETCHED, remote.content["step"], {"reason": reason})
        return remote._replace(damaged=[*local.damaged, *remote.damaged])

    def _load(self, commit: Path, content: folder.Content) -> None:
        before = (content["workers"], content["stage"])
        here = (dist.get_world_size(), self._engine.zero_optimization_stage())
        # At stage 0 nothing is partitioned, so the number of workers does not matter.
        if here == before or here[1] == before[1] == 0:
            loaded, _ = self._engine.load_checkpoint(str(commit), tag=STATE)
            if loaded is None:
                raise RuntimeError(f"DeepSpeed loaded nothing from {commit}")
            return
        # A sibling of the commit, which must keep matching its digests; removed after loading.
        converted = folder.aside(commit, "converted")
        on_rank_0(lambda: universal.convert(commit / STATE, converted, stage=content["stage"]))
        together(lambda: universal.load(self._engine, converted))
        self._engine.global_steps = content["step"]
        on_rank_0(lambda: shutil.rmtree(converted))
        change = " to ".join(f"{workers} workers at ZeRO stage {stage}" for workers, stage in (before, here))
        self._report(Event.CHECKPOINT_CONVERTED, content["step"], {"reason": f"from {change}"})

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        folder.collect_garbage(self._folder)
        # While a commit is written, the ones that it supersedes still exist.
        new = self._settings.keep + 1 - len(folder.commits(self._folder))
        folder.require_space(self._folder, self._bytes, commits=max(1, new))
        if self._settings.mirror is not None:
            self._mirror = Mirror(self._settings.mirror, self._folder.parent, self._settings)
            self._mirror_thread = MirrorThread(self._mirror, self._report)
            try:
                self._mirror.claim()
            except OwnerError:
                raise
            except Exception:  # noqa: BLE001 - any store's; reported when a commit is sent
                pass


def _bytes_of_commit(engine: Any) -> int:
    """Approximate size of a commit: the model's weights, AdamW's master copy and its two moments."""
    total = 0
    for parameter in engine.module.parameters():
        size = getattr(parameter, "ds_numel", parameter.numel())
        total += 16 * size if parameter.requires_grad else 4 * size
    return total
