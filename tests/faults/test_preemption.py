"""Preemption: SIGTERM to a worker, to all workers and to the driver, once and twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faulty_runs import STEPS, pretraining, restarts, weights_of
from small_runs import events, run_workers, small_settings
from torch.multiprocessing import ProcessRaisedException
from waiting import DEADLINE, wait_for

from cluster import pretrain
from cluster.runs import preemption
from cluster.settings import PretrainSettings

WORKER = """
import sys, time
from cluster.runs import preemption
preemption.listen()
print("ready", flush=True)
while not preemption.is_asked(None):
    time.sleep(0.01)
print("asked", flush=True)
sys.stdin.read()
"""
DRIVER = """
import sys, time
from pathlib import Path
from cluster.runs.preemption import taken
with taken(Path(sys.argv[1])) as is_asked:
    print("ready", flush=True)
    while not is_asked():
        time.sleep(0.01)
    print("asked", flush=True)
    sys.stdin.read()
"""


def listen_and_pretrain(config: dict[str, Any]) -> None:
    preemption.listen()
    pretrain.pretrain_worker(config)


def start_workers(settings: PretrainSettings) -> Any:
    """Start a run's workers without Ray, with signal handling, and wait for two steps."""
    context = run_workers(settings, join=False, work=listen_and_pretrain)
    wait_for(lambda: len(events(settings.run.dir, "step")) >= 2)
    return context


@pytest.mark.parametrize("ranks", [(1,), pytest.param((0, 1), marks=pytest.mark.slow)])
def test_all_workers_commit_the_same_step_when_one_is_asked_to_end(
    tmp_path: Path, shards: Path, ranks: tuple[int, ...]
) -> None:
    settings = small_settings(
        shards, tmp_path, train={"steps": 10**6, "validate_every": 10**6}, checkpoint={"every": 10**6}
    )
    context = start_workers(settings)
    for rank in ranks:
        os.kill(context.processes[rank].pid, signal.SIGTERM)
    with pytest.raises(ProcessRaisedException, match="preempted at step"):
        context.join(timeout=DEADLINE)
    for process in context.processes:
        process.join(timeout=DEADLINE)
    run = settings.run.dir
    [commit] = events(run, "checkpoint")
    assert commit["step"] == events(run, "step")[-1]["step"]
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{commit['step']:09d}"]
    assert events(run, "finished") == []


def in_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert says(process) == "ready\n"
    return process


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_a_second_signal_ends_a_worker_now() -> None:
    process = in_python(WORKER)
    process.terminate()
    assert says(process) == "asked\n", "it goes on"
    process.terminate()
    assert process.wait(DEADLINE) == preemption.EXIT_CODE


def test_a_second_signal_ends_the_driver_now(tmp_path: Path) -> None:
    process = in_python(DRIVER, str(tmp_path))
    control = tmp_path / preemption.FILE_NAME
    assert control.is_file()
    assert not preemption.is_asked(tmp_path)
    process.terminate()
    assert says(process) == "asked\n", "it goes on"
    process.terminate()
    assert process.wait(DEADLINE) == preemption.EXIT_CODE
    assert preemption.is_asked(tmp_path)


@pytest.mark.slow
def test_a_worker_is_started_again_and_the_command_ends_with_75(
    tmp_path: Path, shards: Path, untroubled: Path
) -> None:
    with pretraining(tmp_path, shards, "cluster.max_failures=0", until=3) as command:
        command.wait_for_step(3)
        command.worker(1).terminate()
        command.go_on_until(lambda: restarts(command.run) or command.process.poll() is not None)
        [restart] = restarts(command.run)
        assert restart["restart"]["preemption"]
        assert restart["step"] == command.steps()[-1]
        command.let(restart["step"] + 2)
        command.wait_for_step(restart["step"] + 2)
        command.process.terminate()
        command.go_on_until(lambda: command.process.poll() is not None)
        code, said, errors = command.end()
    step = command.steps()[-1]
    assert (code, errors.splitlines()[-1]) == (75, f"preempted at step {step}; the same command resumes it")
    assert f"preempted at step {restart['step']}; restarting from step {restart['step']}" in said
    assert events(command.run, "checkpoint")[-1]["step"] == step < STEPS
    with pretraining(tmp_path, shards) as command:
        assert command.end()[0] == 0
    assert command.steps() == list(range(1, STEPS + 1)), "no step was made twice"
    assert weights_of(command.run) == weights_of(untroubled)
