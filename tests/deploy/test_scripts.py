"""The scripts of deploy/: written as shells want them, and the Slurm one against a stand-in for Slurm."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import DEADLINE, wait_for

DEPLOY = Path(__file__).parents[2] / "deploy"
SRUN = """#!/bin/sh
echo "srun $*" >> calls
case "$*" in *--head*) exec "{python}" -c "
import socket, sys, time
port = int(sys.argv[sys.argv.index('--port') + 1])
with socket.create_server(('127.0.0.1', port)): time.sleep(600)
" "$@" ;; *) exec sleep 600 ;; esac
"""
SCONTROL = """#!/bin/sh
echo "scontrol $*" >> calls
[ "$1" = show ] && printf '127.0.0.1\\n127.0.0.2\\n' || true
"""
ODEFORMER = """#!/bin/sh
echo "odeformer $*" >> calls
trap 'echo committed >> calls; exit 75' TERM
[ -n "$RAY_AUTH_TOKEN" ] && echo ready > ready
for turn in $(seq 600); do [ -f end ] && exit "$(cat end)"; sleep 0.2; done
"""


def test_shells_would_not_complain() -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    scripts = [DEPLOY / "slurm" / "pretrain.sbatch", DEPLOY / "local" / "two_nodes"]
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert all(os.access(script, os.X_OK) for script in scripts)


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """A folder with ``srun``, ``scontrol`` and an ``odeformer`` that note how they are called."""
    write_programs(tmp_path)
    return tmp_path


def write_programs(folder: Path) -> None:
    programs = {"srun": SRUN.format(python=sys.executable), "scontrol": SCONTROL, "odeformer": ODEFORMER}
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def start(slurm: Path, job_id: int = 7, until: str = "ready") -> subprocess.Popen[str]:
    """Start the script, and wait for a file that says how far it is."""
    job = {"SLURM_JOB_ID": str(job_id), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    environment = (
        os.environ
        | job
        | {
            "PATH": f"{slurm}:{os.environ['PATH']}",
            "SLURM_GPUS_ON_NODE": "4",
            "SLURM_CPUS_PER_TASK": "16",
        }
    )
    process = subprocess.Popen(
        ["bash", DEPLOY / "slurm" / "pretrain.sbatch", "run.yaml", "--set", "cluster.min_workers=4"],
        cwd=slurm,
        env=environment,
        text=True,
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: (slurm / until).exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]
    return process


def test_a_slurm_job_brings_up_ray_and_goes_back_into_the_queue_when_it_is_told_to_end(slurm: Path) -> None:
    process = start(slurm)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=DEADLINE) == 75
    calls = (slurm / "calls").read_text().splitlines()
    [head, other] = [call for call in calls if call.startswith("srun")]
    assert "--nodelist=127.0.0.1 ray start --head --port 20021 " in head, "by the number of the job"
    assert "--nodelist=127.0.0.2 ray start --address 127.0.0.1:20021 " in other
    assert all('--num-gpus 4 --resources {"pretrain": 4}' in call for call in (head, other))
    [run] = [call for call in calls if call.startswith("odeformer")]
    assert run == (
        "odeformer pretrain run.yaml --set cluster.address=127.0.0.1:20021 --set cluster.workers=8 "
        "--set cluster.gpus_per_worker=1 --set cluster.min_workers=4"
    )
    assert calls[-2:] == ["committed", "scontrol requeue 7"]


def test_a_slurm_job_that_is_told_to_end_before_its_run_has_begun_is_queued_again(slurm: Path) -> None:
    (slurm / "srun").write_text('#!/bin/sh\necho "srun $*" >> calls\ntouch starting\nexec sleep 600\n')
    process = start(slurm, until="starting")  # Ray's head does not come up
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=DEADLINE) == 75
    calls = (slurm / "calls").read_text().splitlines()
    assert calls[-1] == "scontrol requeue 7"
    assert not [call for call in calls if call.startswith("odeformer")]


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_slurm_job_ends_as_its_run_does_and_is_not_queued_again(slurm: Path, code: int) -> None:
    process = start(slurm)
    (slurm / "end").write_text(str(code))
    assert process.wait(timeout=DEADLINE) == code
    assert "requeue" not in (slurm / "calls").read_text()


def test_two_jobs_on_one_node_have_no_port_in_common(tmp_path: Path) -> None:
    used = []
    for job_id in (31_999, 32_000):
        folder = tmp_path / str(job_id)
        folder.mkdir()
        write_programs(folder)
        process = start(folder, job_id)
        (folder / "end").write_text("0")
        assert process.wait(timeout=DEADLINE) == 0
        calls = (folder / "calls").read_text()
        found = {int(port) for port in re.findall(r"port (\d+)", calls)}
        assert "--min-worker-port 0 --max-worker-port 0" in calls, "any that are free"
        used.append(found - {0})
    first, second = used
    assert len(first) == len(second) == 3
    assert not first & second
    assert all(20_000 <= port < 32_768 for port in first | second), "below those that Linux hands out"
