"""How long training waits for a checkpoint, and when it is durable: ours, torch.save, torch's async_save.

    python -m benchmarks.checkpointing --json benchmarks/results/checkpointing.json

One worker with the model, the precision and the ZeRO stage of the preset `small`, which makes an optimizer
step on a short batch after each save. The state is what DeepSpeed saves of it. All three write it in turn, to
the same disk, and flush it there: a commit of ours, with digests and the removal of the one before;
`torch.save` and fsync for each file, for all of which training waits;
`torch.distributed.checkpoint.async_save` with a stager that keeps its memory and copies in a thread, as ours
does. Blocked is a worker while it saves, and before the optimizer's step while the state is still being
copied. What goes on in the background shares cores with the step: forward and backward pass are measured as
well. The first round, which takes the memory, stands apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
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

from cluster.checkpoints.commit import STATE, Checkpoints
from cluster.settings import CheckpointSettings, TrainSettings
from cluster.training import zero
from launcher.configuration.load import load_pretrain
from odeformer.model import Odeformer, parameter_count, token_losses

LENGTH = 64
"""Tokens of the one step that gives AdamW its moments."""


class Seconds(NamedTuple):
    """What a save, and the step after it, took."""

    blocked: float
    passes: float
    """Forward and backward."""
    durable: float
    """From the call on."""


class Nowhere:
    """A place in data that is always the same."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder), arguments.rounds)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    for name, seconds in result["seconds"].items():
        print(f"{name:<10} " + ", ".join(f"{which} {value:.3f} s" for which, value in seconds.items()))
    for which in Seconds._fields:
        print(f"{which}, over torch.save: {result[f'{which}_ratio']}")


def compare(folder: Path, rounds: int) -> dict[str, Any]:
    """All of them in turn, each time another one first."""
    step = Step(folder)
    state = saved_state(step.engine)
    ways: dict[str, Callable[[int], Seconds]] = {
        "ours": Ours(step, folder / "ours"),
        "torch.save": lambda _: plainly(step, state, folder / "plain"),
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

    def ratio(name: str, which: str, over: str) -> float:
        pairs = zip(later[name], later["torch.save"], strict=True)
        return round(statistics.median(getattr(a, which) / getattr(b, over) for a, b in pairs), 3)

    return {
        "parameters": step.parameters,
        "bytes": bytes_of(state),
        "seconds": {
            name: {which: statistics.median(getattr(one, which) for one in rows) for which in Seconds._fields}
            for name, rows in later.items()
        },
        "blocked_ratio": {name: ratio(name, "blocked", "durable") for name in names},
        "passes_ratio": {name: ratio(name, "passes", "passes") for name in names},
        "durable_ratio": {name: ratio(name, "durable", "durable") for name in names},
        "first": {name: rows[0]._asdict() for name, rows in measured.items()},
        "rounds": {name: [row._asdict() for row in rows] for name, rows in later.items()},
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
    }


class Step:
    """The preset's model, and its optimizer step in two parts."""

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
        self._depth, self._clip = config.depth, preset.optim.clip
        self._ids = torch.randint(shape["vocabulary_size"], (1, LENGTH + 1))
        self.passes()  # AdamW has no moments before
        self.update()

    def passes(self) -> float:
        """Forward and backward; the seconds they take."""
        started = time.monotonic()
        logits = self.engine(self._ids[:, :-1], depth=self._depth).logits
        self.engine.backward(token_losses(logits, self._ids[:, 1:]).mean())
        return time.monotonic() - started

    def update(self) -> None:
        """What changes the state."""
        zero.apply_gradients(self.engine, self._clip)


def saved_state(engine: Any) -> dict[str, Any]:
    """What DeepSpeed saves, by the name of the file; not copied."""
    files, engine_of_deepspeed = {}, engine.checkpoint_engine

    class Taking:
        def __getattr__(self, name: str) -> Any:
            return getattr(engine_of_deepspeed, name)

        def save(self, state_dict: Any, path: str) -> None:
            files[Path(path).name] = state_dict

    engine.checkpoint_engine = Taking()
    engine._copy_recovery_script = lambda *_: None
    with tempfile.TemporaryDirectory() as folder:
        engine.save_checkpoint(folder, tag=STATE, save_latest=False)
    engine.checkpoint_engine = engine_of_deepspeed
    return files


class Ours:
    """A commit."""

    def __init__(self, step: Step, folder: Path) -> None:
        self._step, self._said = step, list[Mapping[str, Any]]()
        self._checkpoints = Checkpoints(
            step.engine, Nowhere(), folder, CheckpointSettings(keep=1), self._report, seed=0
        )

    def __call__(self, number: int) -> Seconds:
        self._checkpoints.save(number + 1)
        passes = self._step.passes()
        self._step.update()
        self._checkpoints.wait()
        return Seconds(self._said[-1]["blocked_seconds"], passes, self._said[-1]["checkpoint_seconds"])

    def _report(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        assert event == "checkpoint", values
        self._said.append(values)


def plainly(step: Step, state: dict[str, Any], folder: Path) -> Seconds:
    """``torch.save`` of each file, flushed."""
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
    """Torch's own, by threads."""

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
        while not durable:  # those who wait are told before the callbacks are called
            time.sleep(0.001)
        shutil.rmtree(target)
        return Seconds(blocked, passes, durable[0] - started)


def bytes_of(state: Any) -> int:
    """Of all tensors in it."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    if isinstance(state, dict):
        return sum(map(bytes_of, state.values()))
    return sum(map(bytes_of, state)) if isinstance(state, list | tuple) else 0


if __name__ == "__main__":
    main()
