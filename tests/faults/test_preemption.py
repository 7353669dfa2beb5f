"""Preemption: SIGTERM to a worker, to all workers and to the driver, once and twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import psutil
import pytest
from faulty_runs import STEPS, pretraining, restarts, weights_of
from ports import free_port
from small_runs import events, run_workers, small_settings
from small_tasks import a_task, register_base
from torch.multiprocessing import ProcessRaisedException
from waiting import DEADLINE, wait_for, wait_until_gone

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


def ends_as_preempted(command: forked.Command) -> bool:
    """Whether a command ends with 75 and says so; what it printed otherwise is in the failure."""
    _, errors = command.communicate()
    assert (command.returncode, errors.splitlines()[-1:]) == (75, ["preempted; the same command resumes it"])
    return True


def test_a_signal_while_ray_starts_is_a_preemption(tmp_path: Path, shards: Path) -> None:
    with pretraining(tmp_path, shards, until=0) as command:
        family = wait_for(command.family)
        command.process.terminate()
        assert ends_as_preempted(command.process)
        wait_until_gone(family)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_a_signal_while_the_end_waits_for_the_registry_is_a_preemption(tmp_path: Path, shards: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    changes = (f"tracking.uri={nobody}", "tracking.register_as=late", "train.steps=2", "cluster.workers=1")
    with pretraining(tmp_path, shards, *changes) as command:
        wait_for(lambda: events(command.run, "finished") or command.process.poll() is not None)
        wait_for(lambda: not list((command.run / "heartbeats").glob("*/0.json")))
        command.process.terminate()
        code, _, errors = command.end()
    assert code == 75
    assert errors.splitlines()[-1].startswith("preempted")
    assert (command.run / "final" / "model.safetensors").is_file()


def end_fine_tuning(folder: Path, uri: str, kind: str) -> None:
    """Run the task in a folder, and end the command by SIGTERM after the job's first event of a kind."""
    arguments = ("finetune", "run", "task.yaml", "--dir=jobs", f"--tracking-uri={uri}")
    command = forked.Command(*arguments, cwd=folder, start_new_session=True)
    family: list[psutil.Process] = []
    try:
        wait_for(lambda: events(folder / "jobs/a/kind-1", kind) or command.poll() is not None)
        family = psutil.Process(command.pid).children(recursive=True)
        command.terminate()
        assert ends_as_preempted(command)
    finally:
        command.kill()
        wait_until_gone(family)


@pytest.mark.slow
def test_a_fine_tuning_command_goes_on_where_a_signal_ended_it(tmp_path: Path) -> None:
    uri = register_base(tmp_path)
    task = a_task(tmp_path, steps=10**6).model_dump(mode="json", exclude_none=True)
    (tmp_path / "task.yaml").write_text(json.dumps(task))
    for kind in ("step", "resumed"):
        end_fine_tuning(tmp_path, uri, kind)
    log = tmp_path / "jobs/a/kind-1"
    first, second = events(log, "preempted")
    assert [event["step"] for event in events(log, "resumed")] == [first["step"]]
    assert second["step"] >= first["step"] > 0


OTHER_COMMAND = """
import time
from launcher.cli import main
def app(**_):
    print("ready", flush=True)
    time.sleep(10**6)
main.app = app
main.main()
"""


def test_any_other_command_ends_with_143_and_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    process = in_python(OTHER_COMMAND)
    process.terminate()
    assert process.wait(DEADLINE) == 143
    assert capfd.readouterr().err == "ended by SIGTERM\n"
