"""Checkpointing: how long training waits for a save, and when it is durable, for three ways to save.

    python -m benchmarks.cluster.checkpointing --json benchmarks/results/checkpointing.json

One worker with the model, precision and ZeRO stage of the preset `small` makes an optimizer step on a short
batch after each save. The state is what DeepSpeed saves. All three ways take turns in writing it to the same
disk and flush it: a commit of ours, with digests and the removal of the one before; `torch.save` and fsync
for each file, for all of which training waits; `torch.distributed.checkpoint.async_save` with a stager that
reuses its memory and copies in a thread, as ours does. A worker is blocked while it saves, and before the
optimizer step while the state is still being copied. Background work shares cores with the step, so the
forward and backward pass are measured as well. The first round, which allocates the memory, is kept apart.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import distributed as dist
from torch.distributed.checkpoint import FileSystemWriter, async_save
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse

from benchmarks import bench
from cluster.checkpoints.commit import STATE, Checkpoints
from cluster.settings import CheckpointSettings, TrainSettings
from cluster.training import zero
from launcher.configuration.load import load_pretrain
from odeformer.model import Odeformer, parameter_count, token_losses

LENGTH = 64
"""The tokens of a step; the first one creates AdamW's moments."""


class Seconds(NamedTuple):
    """Seconds of a save and of the step after it."""

    blocked: float
    passes: float
    """The forward and backward pass."""
    durable: float
    """The time from the call until the state is on disk."""


class Nowhere:
    """A position in the data that never changes."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def main() -> None:
    """Measure all ways, print and write the medians."""
    arguments = bench.parser(__doc__, rounds=7).parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder), arguments.rounds)
    bench.save(arguments.json, result)
    bench.print_row({key: value for key, value in result.items() if key != "rounds"})


def compare(folder: Path, rounds: int) -> dict[str, Any]:
    """All ways in turn, each round starting with another one."""
    step = Step(folder)
    state = saved_state(step.engine)
    ways: dict[str, Callable[[int], Seconds]] = {
        "ours": commits(step, folder / "ours"),
        "torch.save": lambda _: torch_save(step, state, folder / "plain"),
        "async_save": AsyncSave(step, state, folder / "async"),
    }
    names = list(ways)
    measured: dict[str, list[Seconds]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            os.sync()
            measured[name].append(ways[name](number))
            print(f"round {number}  {name:<10} {measured[name][-1]}", flush=True)
    later = {name: all_seconds[1:] for name, all_seconds in measured.items()}

    def ratios(which: str, over: str) -> dict[str, float]:
        """The median ratio of each way to ``torch.save``."""
        plain = [getattr(row, over) for row in later["torch.save"]]
        return {
            name: round(bench.median_ratio([getattr(row, which) for row in rows], plain), 3)
            for name, rows in later.items()
        }

    return {
        "parameters": step.parameters,
        "bytes": bytes_of(state),
        "seconds": {
            name: {which: statistics.median(getattr(row, which) for row in rows) for which in Seconds._fields}
            for name, rows in later.items()
        },
        "blocked_ratio": ratios("blocked", "durable"),
        "passes_ratio": ratios("passes", "passes"),
        "durable_ratio": ratios("durable", "durable"),
        "first": {name: rows[0]._asdict() for name, rows in measured.items()},
        "rounds": {name: [row._asdict() for row in rows] for name, rows in later.items()},
        **bench.stamp("torch"),
    }


class Step:
    """The preset's model and its optimizer step, in two parts."""

    def __init__(self, folder: Path) -> None:
        preset = load_pretrain("small")
        shape = {"vocabulary_size": 32_000, "context_length": preset.data.sequence_length}
        config = preset.model.model_copy(update=shape)
        torch.manual_seed(0)
        self.engine = zero.initialize(
            Odeformer(config),
            TrainSettings(steps=1, global_batch=1, micro_batch=1, precision=preset.train.precision),
            preset.optim,
            preset.zero,
            folder,
        )
        self.parameters = parameter_count(config)
        self._depth, self._clip = config.depth, preset.optim.max_norm
        self._ids = torch.randint(shape["vocabulary_size"], (1, LENGTH + 1))
        self.passes()  # the first step creates AdamW's moments
        self.update()

    def passes(self) -> float:
        """Run the forward and backward pass and return their seconds."""
        started = time.monotonic()
        logits = self.engine(self._ids[:, :-1], depth=self._depth).logits
        self.engine.backward(token_losses(logits, self._ids[:, 1:]).mean())
        return time.monotonic() - started

    def update(self) -> None:
        """Apply the gradients, which changes the state."""
        zero.apply_gradients(self.engine, self._clip)


def saved_state(engine: Any) -> dict[str, Any]:
    """The state that DeepSpeed saves, by file name, without a copy."""
    files, original = {}, engine.checkpoint_engine

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            return getattr(original, name)

        def save(self, state_dict: Any, path: str) -> None:
            files[Path(path).name] = state_dict

    engine.checkpoint_engine = Recorder()
    engine._copy_recovery_script = lambda *_: None
    with tempfile.TemporaryDirectory() as folder:
        engine.save_checkpoint(folder, tag=STATE, save_latest=False)
    engine.checkpoint_engine = original
    return files


def commits(step: Step, folder: Path) -> Callable[[int], Seconds]:
    """Commits of ours."""
    events: list[Mapping[str, Any]] = []

    def report(event: str, step: int, values: Mapping[str, Any]) -> None:
        assert event == "checkpoint", values
        events.append(values)

    checkpoints = Checkpoints(step.engine, Nowhere(), folder, CheckpointSettings(keep=1), report, seed=0)

    def save(number: int) -> Seconds:
        checkpoints.save(number + 1)
        passes = step.passes()
        step.update()
        checkpoints.wait()
        return Seconds(events[-1]["blocked_seconds"], passes, events[-1]["checkpoint_seconds"])

    return save


def torch_save(step: Step, state: dict[str, Any], folder: Path) -> Seconds:
    """Save each file by ``torch.save`` and flush it."""
    folder.mkdir(exist_ok=True)
    started = time.monotonic()
    for name, content in state.items():
        with (folder / name).open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    seconds = time.monotonic() - started
    passes = step.passes()
    step.update()
    return Seconds(seconds, passes, seconds)


class AsyncSave:
    """The ``async_save`` of torch, by threads."""

    def __init__(self, step: Step, state: dict[str, Any], folder: Path) -> None:
        self._step, self._state, self._folder = step, state, folder
        self._stager = DefaultStager(StagingOptions(False, False, True, False))

    def __call__(self, number: int) -> Seconds:
        target = self._folder / str(number)
        started = time.monotonic()
        saving = async_save(
            self._state, storage_writer=FileSystemWriter(target, sync_files=True), async_stager=self._stager
        )
        assert isinstance(saving, AsyncSaveResponse)
        durable = list[float]()
        saving.upload_completion.add_done_callback(lambda _: durable.append(time.monotonic()))
        blocked = time.monotonic() - started
        passes = self._step.passes()
        waiting = time.monotonic()
        saving.staging_completion.result()
        blocked += time.monotonic() - waiting
        self._step.update()
        saving.upload_completion.result()
        while not durable:  # waiters wake up before the callbacks run
            time.sleep(0.001)
        shutil.rmtree(target)
        return Seconds(blocked, passes, durable[0] - started)


def bytes_of(state: Any) -> int:
    """The bytes of all tensors in a nested structure."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    if isinstance(state, dict):
        return sum(map(bytes_of, state.values()))
    return sum(map(bytes_of, state)) if isinstance(state, list | tuple) else 0


if __name__ == "__main__":
    main()
