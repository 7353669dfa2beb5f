"""Committed checkpoints: written beside, made durable, digested, then renamed. Readers see all or nothing.

All of it is done by a thread of every rank. It copies the state into host memory first; training goes on
meanwhile, and waits for the copy where the next step would change the state.
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

from cluster.checkpoints import durable, folder, random_state, universal
from cluster.checkpoints.durable import TogetherError, on_rank_0, together
from cluster.checkpoints.mirror import Mirror, identity
from cluster.runs import heartbeat
from cluster.settings import CheckpointSettings
from cluster.tracking import runs

STATE = "state"
"""The folder in a commit that DeepSpeed fills."""


class Cursor(Protocol):
    """Where a run is in its data."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Checkpoints:
    """The commits of a run. All ranks make one, and call each method at the same step.

    One commit at most is in flight. It is waited for by the next one, by :meth:`restore`, and by the end of
    the ``with`` block, whatever ends it.

    Args:
        report: called as ``report(event, step, values)``, also from a thread, with what becomes of a commit.
        seed: of what the ranks draw at random where no commit says it.

    Raises:
        TogetherError: when the disk has no room for as many commits as there will be.
    """

    def __init__(
        self,
        engine: Any,
        stream: Cursor,
        place: Path,
        settings: CheckpointSettings,
        report: Callable[[str, int, Mapping[str, Any]], None],
        seed: int,
    ) -> None:
        self._engine, self._stream, self._folder = engine, stream, place
        self._settings, self._report, self._seed = settings, report, seed
        self._device = torch.device(engine.device)
        self._failed = 0
        self._files = durable.DurableFiles(engine.checkpoint_engine)
        engine.checkpoint_engine = self._files
        # A script to read the state with, which rank 0 would copy into every commit, undigested.
        engine._copy_recovery_script = lambda *_: None
        self._bytes = _bytes_of_commit(engine)
        self._mirror: Mirror | None = None
        on_rank_0(self._prepare)
        # Two threads' collectives in one group would meet each other.
        self._group = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._in_flight: Future[None] | None = None
        self._blocked = 0.0
        self._copied = threading.Event()
        self._hook = engine.basic_optimizer.register_step_pre_hook(self._before_update)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.wait()
        else:  # which says more than what a commit may fail of now
            with suppress(Exception):
                self.wait()
        self._thread.shutdown()
        self._hook.remove()

    def save(self, step: int) -> None:
        """Commit the engine's state and the stream's cursor as ``step-…``, from now on.

        The state may change in the optimizer's next step, which waits until it has been copied, and not
        before. Waits for the commit before. One that cannot be written leaves nothing behind but the event
        ``checkpoint_failed``; those before it stay.

        Raises:
            RuntimeError: when so many failed in a row as the settings allow, the commit before included.
        """
        started = time.monotonic()
        self.wait()
        beside = self._folder / f".{folder.name(step)}.incomplete"
        names = [] if self._engine.zero_optimization_stage() else universal.parameter_names(self._engine)
        # Nothing is written yet: DeepSpeed asks our files to save, and they note what.
        self._engine.save_checkpoint(
            str(beside), tag=STATE, save_latest=False, client_state={universal.NAMES: names}
        )
        random = random_state.content(self._device)
        content = {
            "format_version": folder.FORMAT_VERSION,
            "step": step,
            "stream": self._stream.state_dict(),
            "workers": dist.get_world_size(),
            "stage": self._engine.zero_optimization_stage(),
        }
        self._copied.clear()
        self._blocked = time.monotonic() - started
        self._in_flight = self._thread.submit(self._finish, beside, content, random, started)

    def _before_update(self, *_: Any) -> None:
        """Called by the optimizer before each of its steps."""
        if self._in_flight is not None:
            started = time.monotonic()
            self._copied.wait()
            self._blocked += time.monotonic() - started

    def wait(self) -> None:
        """Wait until the commit in flight is durable, or has failed.

        Raises:
            RuntimeError: as :meth:`save`.
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

    def _finish(self, beside: Path, content: dict[str, Any], random: bytes, started: float) -> None:
        """The thread's part of a commit."""
        step = content["step"]
        self._files.copy()
        self._copied.set()
        try:
            on_rank_0(lambda: self._make_room(beside), self._group)
            files = together(lambda: self._write(beside, random), self._group)
            on_rank_0(lambda: self._commit(beside, content, files), self._group)
        except TogetherError as error:
            if dist.get_rank() == 0:
                shutil.rmtree(beside, ignore_errors=True)
            self._report("checkpoint_failed", step, {"reason": str(error)})
            raise TogetherError(f"at step {step}: {error}") from None
        seconds = {"checkpoint_seconds": time.monotonic() - started, "blocked_seconds": self._blocked}
        self._report("checkpoint", step, seconds)
        if self._mirror is not None:
            self._send(self._mirror, step)

    def _send(self, mirror: Mirror, step: int) -> None:
        started = time.monotonic()
        try:
            mirror.send(self._folder)
        except Exception as error:  # noqa: BLE001 - of any store's; the commit is on the disk all the same
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self._report("mirror_away", step, {"reason": f"{self._settings.mirror}: {reason}"})
        else:
            self._report("checkpoint_mirrored", step, {"mirror_seconds": time.monotonic() - started})

    def _make_room(self, beside: Path) -> None:
        folder.collect_garbage(self._folder)
        folder.require_space(self._folder, self._bytes, commits=1)
        beside.mkdir(parents=True)

    def _write(self, beside: Path, random: bytes) -> dict[str, str]:
        """This rank's files; their digests."""
        name = random_state.file_name(dist.get_rank())
        written = self._files.write(beside)
        written[name] = durable.write(beside / name, lambda file: file.write(random))
        heartbeat.passed()  # the others wait for the rank that has not got here
        return written

    def _commit(self, beside: Path, content: dict[str, Any], files: list[dict[str, str]]) -> None:
        digests = {name: value for of_rank in files for name, value in sorted(of_rank.items())}
        run = self._folder.parent
        whose = {"run": identity(run), "mlflow_run": runs.known_run(run)}
        text = json.dumps({**content, **whose, "files": digests}, indent=2)
        durable.write(beside / folder.MANIFEST, lambda file: file.write(text.encode()))
        folder.put_in_place(beside, content["step"], self._settings)

    def restore(self) -> int:
        """Load the newest commit whose digests verify; the step it was made at, 0 if there is none.

        The engine may have trained before, and the commit may be of other workers at another ZeRO stage. One
        that is damaged is moved aside and reported. Without any good one here, the mirror's is fetched;
        without one there nothing is loaded.

        With as many workers each draws on at random as it would have; with more or fewer, and without a
        commit, it begins anew, from the seed, the step and its rank.
        """
        self.wait()
        found = on_rank_0(self._newest_good)
        for step, reason in found.damaged:
            self._report("checkpoint_damaged", step, {"reason": reason})
        rank, step = dist.get_rank(), int(found.content.get("step", 0))
        random_state.begin(self._seed, step, rank)
        if found.commit is None:
            return 0
        self._load(found.commit, found.content)
        self._stream.load_state_dict(found.content["stream"])
        name = random_state.file_name(rank)
        if found.content["workers"] == dist.get_world_size() and name in found.content["files"]:
            random_state.load(found.commit / name, self._device)
        return step

    def _newest_good(self) -> folder.Found:
        here = folder.newest_good(self._folder)
        if here.commit is not None or self._mirror is None:
            return here
        there = self._mirror.fetch(self._folder)
        if there.commit is not None:
            reason = f"from {self._settings.mirror}"
            self._report("checkpoint_fetched", there.content["step"], {"reason": reason})
        return there._replace(damaged=[*here.damaged, *there.damaged])

    def _load(self, commit: Path, content: dict[str, Any]) -> None:
        before = (content["workers"], content["stage"])
        here = (dist.get_world_size(), self._engine.zero_optimization_stage())
        # At stage 0 every worker holds everything: there is nothing to divide in another way.
        if here == before or here[1] == before[1] == 0:
            loaded, _ = self._engine.load_checkpoint(str(commit), tag=STATE)
            if loaded is None:
                raise RuntimeError(f"DeepSpeed loaded nothing from {commit}")
            return
        # No part of the commit, which stays what its digests say, and gone when it has been read.
        converted = folder.aside(commit, "converted")
        on_rank_0(lambda: universal.convert(commit / STATE, converted, stage=content["stage"]))
        together(lambda: universal.load(self._engine, converted))
        self._engine.global_steps = content["step"]
        on_rank_0(lambda: shutil.rmtree(converted))
        change = " to ".join(f"{workers} workers at ZeRO stage {stage}" for workers, stage in (before, here))
        self._report("checkpoint_converted", content["step"], {"reason": f"from {change}"})

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        folder.collect_garbage(self._folder)
        # While a commit is written, all those that it supersedes are still there.
        new = self._settings.keep + 1 - len(folder.commits(self._folder))
        folder.require_space(self._folder, self._bytes, commits=max(1, new))
        if self._settings.mirror is not None:
            self._mirror = Mirror(self._settings.mirror, self._folder.parent, self._settings)


def _bytes_of_commit(engine: Any) -> int:
    """About what a commit takes: the weights as the model has them, and as AdamW does, with two moments."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in engine.module.parameters()]
    return sum(16 * size if trained else 4 * size for size, trained in sizes)
